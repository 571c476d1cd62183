"""Students of the zoo on disk, and changes to their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo import Row, disturb, student_of

from piflow_cli.students.adapter_digests import DIGESTS
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.student import Student

WEIGHTS = "diffusion_pytorch_model.safetensors"


def saved(row: Row, folder: Path, policy: str = "gm") -> Student:
    """A student that training has moved, in ``folder``/adapter, its base in ``folder``/base."""
    row.save(folder / "base")
    student = student_of(row, row.build(), policy)
    disturb(student)
    save_adapter(student, folder / "adapter")
    return student


def rewrite(folder: Path, change: Callable[[dict, dict, dict], None]) -> None:
    """Let ``change`` have the tensors, the metadata and the config of a saved
    student, without the checksums of what it was."""
    path = folder / WEIGHTS
    with safe_open(path, "pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name not in DIGESTS}
    tensors, config = load_file(path), json.loads((folder / "config.json").read_text())
    change(tensors, metadata, config)
    save_file(tensors, path, metadata)
    (folder / "config.json").write_text(json.dumps(config))
