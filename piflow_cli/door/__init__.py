"""The commands as functions: ``import piflow_cli as piflow`` has them, and loads them when they are asked for.

Each makes the request that its command makes, with the same defaults, and hands back Python objects. Nothing is printed
unless a ``console`` is given. What a user can cause is raised as UsageError (what was asked is wrong, nothing was done)
or RunError (it was begun and failed), and a run that a signal has stopped as Interrupted; all three are PiflowErrors.
"""
