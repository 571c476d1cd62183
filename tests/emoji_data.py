"""Entries of an emoji.json and pictures, made up, for the program of the emoji teacher."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from piflow_cli.embedded.emoji.captions import captioned
from piflow_cli.embedded.emoji.data import SIDE, write_data

COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
SKIN_TONES_IN_WORDS = [
    ("1F3FB", "light skin tone"),
    ("1F3FE", "medium dark skin tone"),
    ("1F3FC-1F3FF", "medium light skin tone and dark skin tone"),
]


def entry(name: str, short: str, **others: Any) -> dict[str, Any]:
    usual = {"category": "Symbols", "subcategory": "shapes", "image": "x.png", "has_img_google": True}
    return {"name": name, "short_name": short, **usual, **others}


ENTRIES = [entry(f"{colour.upper()} SQUARE", f"{colour}_square", image=f"{colour}.png") for colour in COLOURS]
CAPTIONS = [caption for one in captioned(ENTRIES) for caption in one.captions]


def picture_file(colour: tuple[int, int, int]) -> bytes:
    """A PNG of this colour, transparent in its lower half."""
    content = np.zeros((SIDE, SIDE, 4), np.uint8)
    content[: SIDE // 2] = (*colour, 255)
    stream = io.BytesIO()
    Image.fromarray(content).save(stream, format="PNG")
    return stream.getvalue()


def write_squares(work: Path) -> None:
    """Data of four squares on white, as the stage `data` writes them."""
    pictures = np.full((len(COLOURS), SIDE, SIDE, 3), 255, np.uint8)
    for picture, colour in zip(pictures, COLOURS.values()):
        picture[16:48, 16:48] = colour
    write_data(work / "data", captioned(ENTRIES), pictures)
