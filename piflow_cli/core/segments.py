"""The lengths of a student's segments. It needs nothing, not even torch, since presets are checked with it."""


def segment_length(nfe: int, final_step_scale: float) -> float:
    """Raw length of every segment but the last, which is ``final_step_scale`` times as long; 1 for a single segment.

    All ``nfe`` segments together span raw time from 1 to 0 (pi-Flow, arXiv 2510.14974, and its published
    configurations).
    """
    return 1.0 if nfe == 1 else 1 / (nfe - 1 + final_step_scale)
