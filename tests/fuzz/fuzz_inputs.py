"""What wrong command lines are made of: a student of classes, one of texts, the other files that commands read, and
damage to all of them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class FuzzInputs:
    """Valid inputs below ``root``: two students with their presets, and files of every kind that a command reads."""

    root: Path
    classes: Path  # a run of digits
    texts: Path  # an adapter of a tiny FLUX
    preset: Path  # of that FLUX
    files: dict[str, Path]

    def fresh(self, rng: random.Random, suffix: str = "") -> Path:
        """A path below ``root`` where nothing is yet."""
        return self.root / "made" / f"{rng.getrandbits(64):016x}{suffix}"


def build(root: Path) -> FuzzInputs:
    """Make everything in ``root``; takes some seconds."""
    from tiny_pipeline import whole_pipeline
    from zoo import ZOO, disturb, student_of, zoo_preset

    from piflow_cli.app import main
    from piflow_cli.students.adapters import save_adapter

    run = root / "digits"
    arguments = [
        "--iterations",
        "1",
        "--batch-size",
        "4",
        "--set",
        "output.preview_every=0",
        "--set",
        "optimisation.warmup=0",
    ]
    assert main(["distill", "--teacher", "digits", *arguments, "--output", str(run), "--quiet"]) == 0
    (root / "flux").mkdir(parents=True)
    preset, read = zoo_preset(ZOO["flux"], root / "flux")
    shutil.rmtree(root / "flux" / "base")
    whole_pipeline(root / "flux" / "base")
    student = student_of(ZOO["flux"], ZOO["flux"].build())
    student.facts = type(student.facts)(**{**vars(student.facts), "base": read.teacher.base})
    disturb(student)
    save_adapter(student, root / "flux" / "adapter")
    (root / "made").mkdir()
    return FuzzInputs(root, run, root / "flux" / "adapter", preset, _files(root / "files"))


def _files(folder: Path) -> dict[str, Path]:
    """One valid file of each kind, by its suffix; ``pictures`` is a folder."""
    folder.mkdir()
    made = {
        suffix: folder / f"valid{suffix}"
        for suffix in (".txt", ".jsonl", ".csv", ".npz", ".safetensors", ".yaml", ".pt")
    }
    made[".txt"].write_text("a red fox\na cat\n")
    made[".jsonl"].write_text('{"text": "a red fox", "seed": 3}\n')
    made[".csv"].write_text("text\na red fox\n")
    np.savez(made[".npz"], mu=np.zeros(2048), sigma=np.eye(2048))
    save_file({"images": torch.zeros(8, 8, 8, dtype=torch.uint8), "labels": torch.arange(8)}, made[".safetensors"])
    made[".yaml"].write_text("policy: {nfe: 2}\n")
    torch.save({"x": torch.zeros(3)}, made[".pt"])
    made["pictures"] = folder / "pictures"
    made["pictures"].mkdir()
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), number * 50, np.uint8)).save(made["pictures"] / f"{number}.png")
    return made


def _noise(data: bytes, rng: random.Random) -> bytes:
    return bytes([0xFF, 0xFE]) + rng.randbytes(max(64, len(data) // 2))


# Damage after which no reader may take the file for a valid one.
DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda data, rng: b"",
    "half": lambda data, rng: data[: len(data) // 2],
    "noise": _noise,
    "zeros": lambda data, rng: bytes(len(data)),
}
# Half of a text is a text.
TEXT_DAMAGE = ("empty", "noise", "zeros")
JSON_DAMAGE = {
    "list": b"[1, 2]",
    "number": b"3",
    "open": b'{"a": ',
    "no keys": b"{}",
    "deep": b"[" * 5000,
    "nan": b'{"_class_name": NaN}',
}


def damage(path: Path, rng: random.Random) -> str:
    """Spoil the file ``path`` in place; returns how."""
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.6:
        kind = rng.choice(list(JSON_DAMAGE))
        path.write_bytes(JSON_DAMAGE[kind])
        return kind
    kind = rng.choice(TEXT_DAMAGE if path.suffix in (".txt", ".csv", ".jsonl", ".json", ".yaml") else list(DAMAGE))
    path.write_bytes(DAMAGE[kind](data, rng))
    return kind


def damaged_copy(inputs: FuzzInputs, source: Path, rng: random.Random, inside: str = "") -> tuple[Path, str]:
    """A copy of the file or folder ``source`` in which the file ``inside`` it, or itself, is spoiled; and how."""
    copy = inputs.fresh(rng, source.suffix)
    if source.is_dir():
        shutil.copytree(source, copy, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, copy)
    return copy, damage(copy / inside if inside else copy, rng)
