"""The GPU core of pi-Flow: time, policies, rollouts and imitation.

It needs torch alone and imports nothing else of piflow.
"""
