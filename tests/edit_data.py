"""Folders of edits: small pictures, instructions, and what is done to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

TEXTS = ("a fox", "no cat", "red")
SIZE = (96, 64)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))


def picture(path: Path, seed: int, size: tuple[int, int] = (96, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def listed_edits(folder: Path, targets: bool = True) -> Path:
    """Three edits that a metadata file lists."""
    rows = []
    for number, text in enumerate(TEXTS):
        picture(folder / "before" / f"{number}.png", number)
        row = {"reference": f"before/{number}.png", "text": text}
        if targets:
            picture(folder / "after" / f"{number}.png", 10 + number)
            row["file_name"] = f"after/{number}.png"
        rows.append(row)
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def named_edits(folder: Path, targets: bool = True) -> Path:
    """The same edits as files of one name."""
    for number, text in enumerate(TEXTS):
        picture(folder / "reference" / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(text)
        if targets:
            picture(folder / f"{number}.png", 10 + number)
    return folder
