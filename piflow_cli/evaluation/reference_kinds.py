"""The kinds of references that samples are compared with, by what is typed."""

from __future__ import annotations

import os

from ..errors import UsageError
from ..presets.places import expanded
from ..wording import shortened

DATA, TEACHER = "data", "teacher"  # references that belong to a student
CLEAN_FID = "clean-fid:"  # begins the name of statistics
KNOWN = "a folder of pictures, a .safetensors or .npz file of statistics, clean-fid:NAME/RESOLUTION/SPLIT, or data"


def check_reference(text: str) -> None:
    """Raise UsageError where ``text`` is a path, and nothing is there."""
    if text != DATA and not text.startswith(CLEAN_FID) and not os.path.exists(expanded(text)):
        raise UsageError(f"there is no reference {shortened(text)}", f"name {KNOWN}: --reference PATH")
