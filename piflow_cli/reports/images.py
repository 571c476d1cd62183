"""Pictures: from states in [-1, 1] to PNG files that carry their recipe."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..console import dumps
from ..core.tensors import all_finite
from ..errors import RunError
from ..system.files import replacing_file
from .recipes import RECIPE_KEY

if TYPE_CHECKING:
    from torch import Tensor

GRID_CELL = 64
LARGEST_CELL = 512
DIVERGED = (
    "a training that has diverged makes such ones: distil again with half the rate, piflow distill --teacher NAME"
    " --learning-rate RATE"
)


def to_images(x: Tensor) -> list[Image.Image]:
    """States (B, C, H, W) in [-1, 1], C = 1 or 3, as 8-bit pictures of the same size; values outside are clipped.

    Raises RunError for values that are not finite: rounded, they would pass for black.
    """
    if not all_finite(x):
        raise RunError("pictures have values that are not finite", DIVERGED)
    pixels = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to("cpu").numpy().astype(np.uint8)
    return [Image.fromarray(picture[0] if picture.shape[0] == 1 else picture.transpose(1, 2, 0)) for picture in pixels]


def image_grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """One picture of ``images``, row by row, in cells of the largest.

    Small ones are enlarged by whole factors so that people can see them, large ones shrunk by whole factors so that
    files stay small.
    """
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    factor, divisor = max(1, GRID_CELL // max(width, height)), -(-max(width, height) // LARGEST_CELL)
    width, height = -(-width * factor // divisor), -(-height * factor // divisor)
    rows = -(-len(images) // columns)
    grid = Image.new(images[0].mode, (columns * width, rows * height))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        cell = image.reduce(divisor).resize(
            [-(-side // divisor) * factor for side in image.size], Image.Resampling.NEAREST
        )
        grid.paste(cell, (column * width, row * height))
    return grid


def png_of(image: Image.Image, recipe: dict | None = None) -> bytes:
    """The content of a PNG, with ``recipe`` as JSON under the text key ``piflow``."""
    info, content = PngInfo(), BytesIO()
    if recipe is not None:
        info.add_text(RECIPE_KEY, dumps(recipe))
    image.save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def read_png(content: bytes) -> Image.Image:
    """The picture in what :func:`png_of` gave."""
    with Image.open(BytesIO(content)) as image:
        image.load()
        return image


def write_bytes(content: bytes, path: Path) -> None:
    """Write what :func:`png_of` gave, or another content of a file, aside first."""
    with replacing_file(path) as aside:
        aside.write_bytes(content)


def save_png(image: Image.Image, path: Path, recipe: dict | None = None) -> None:
    """Write a PNG, aside first, with its ``recipe``."""
    write_bytes(png_of(image, recipe), path)
