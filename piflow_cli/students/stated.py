"""What a student's file states about itself, read from its header alone: no torch, and no tensor."""

from __future__ import annotations

from pathlib import Path

from ..weights.stored import opened_tensors

METADATA_PREFIX = "piflow."


def stated_facts(weights: Path) -> dict[str, str]:
    """The facts in a safetensors file by their names, as texts; none where it is no student of ours.

    Raises RunError where the file is corrupt or cut short.
    """
    with opened_tensors(weights, "np") as file:
        metadata = file.metadata() or {}
    return {
        name.removeprefix(METADATA_PREFIX): value
        for name, value in metadata.items()
        if name.startswith(METADATA_PREFIX)
    }
