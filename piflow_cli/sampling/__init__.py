"""Sampling: from a request to pictures."""
