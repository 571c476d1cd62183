"""Names of students in tables and pictures, and of the folders that hold them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..presets.schema import Preset

# Names that folders and files of every student have, which tell no two apart.
GENERIC = ("adapter", "diffusion_pytorch_model")
_SUFFIX = re.compile(r"\.(safetensors(\.index\.json)?|pth|pt|ckpt|bin)$")


def student_name(student: str, subfolder: str | None = None) -> str:
    """The last part of a path or Hub id that tells it from others.

    It is ``digits`` for runs/digits, runs/digits/adapter and the file in there.
    """
    path = (Path(student) if subfolder is None else Path(student) / subfolder).resolve()
    parts = [*path.parts[1:-1], _SUFFIX.sub("", path.name)]
    return next((part for part in reversed(parts) if part not in GENERIC), path.name)


def student_place(path: Path) -> Path:
    """``path`` in full, without the parts that tell no two students apart: the run, of an adapter or a file in it."""
    place = path.resolve()
    while _SUFFIX.sub("", place.name) in GENERIC:
        place = place.parent
    return place


def student_names(students: Sequence[str], subfolder: str | None = None) -> list[str]:
    """A name for each: :func:`student_name`, or the whole path where two would share a name."""
    short = [student_name(student, subfolder) for student in students]
    return [name if short.count(name) == 1 else path for name, path in zip(short, students, strict=True)]


def teacher_name(teacher: str) -> str:
    """The name of a preset, which may have a dot in it, or of its file without the ending."""
    path = Path(teacher)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name


def run_folder(preset: Preset, teacher: str | Path) -> Path:
    """The folder of a run where none is asked for: runs/digits, or runs/digits-dx-2nfe where policy and NFE differ.

    Another recipe adds its name.

    They are compared with those of the shipped preset of that name, or else of ``teacher``, as the command names it.
    """
    # Takes a tenth of a second to import, which --help has not got.
    from ..presets.resolve import available, load

    own = load(preset.name if preset.name in available() else teacher)
    policy = preset.policy
    parts = [preset.name]
    parts += [policy.kind] if policy.kind != own.policy.kind else []
    parts += [f"{policy.nfe}nfe"] if policy.nfe != own.policy.nfe else []
    parts += [preset.recipe] if preset.recipe != own.recipe else []
    return Path("runs") / "-".join(parts)
