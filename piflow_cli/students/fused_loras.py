"""The LoRAs that are fused into a student's base, as its facts state them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from ..presets.choices import is_number
from ..system.files import is_plain_name

# The folder beside a student's weights that has copies of their files.
KEPT = "teacher_loras"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class FusedLora:
    """A LoRA in the base: its file's ``name``, ``scale`` and SHA-256, which covers a config of peft beside it too."""

    name: str
    scale: float
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} x {self.scale:g} (SHA-256 {self.sha256[:12]})"


def told_loras(loras: Sequence[FusedLora]) -> str:
    """``loras`` in words."""
    return ", ".join(map(str, loras))


def to_json(loras: Sequence[FusedLora]) -> str:
    """``loras`` as a fact."""
    return json.dumps([asdict(lora) for lora in loras])


def from_json(text: str) -> tuple[FusedLora, ...]:
    """The inverse of :func:`to_json`; raises ValueError for anything else."""
    entries = json.loads(text)
    known = {field.name for field in fields(FusedLora)}
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.keys() == known for entry in entries):
        raise ValueError(f"no list of {', '.join(sorted(known))}")
    loras = tuple(FusedLora(**entry) for entry in entries)
    if not all(map(_is_whole, loras)):
        raise ValueError("a name, scale or digest that is none")
    return loras


def _is_whole(lora: FusedLora) -> bool:
    named = is_plain_name(lora.name) and lora.name.isprintable()
    digested = isinstance(lora.sha256, str) and _SHA256.fullmatch(lora.sha256) is not None
    return named and digested and is_number(lora.scale) and math.isfinite(lora.scale)
