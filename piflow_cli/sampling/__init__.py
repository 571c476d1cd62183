"""Sampling: from what to draw to pictures."""
