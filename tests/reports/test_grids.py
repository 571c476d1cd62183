"""Grids of models below each other: sizes at which pictures can be judged, and nothing of a picture lost."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from piflow_cli.reports.grids import GAP, cell_size, comparison_grid


def picture(side: int, level: int = 0, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (side, side), level if mode == "L" else (level, level, level))


@pytest.mark.parametrize(
    ("side", "cell"),
    [(8, 64), (32, 64), (64, 256), (65, 260), (100, 300), (192, 384), (256, 256), (512, 512), (768, 384), (1024, 512)],
)
def test_real_pictures_have_256_to_512_pixels_and_digits_64(side: int, cell: int) -> None:
    assert cell_size([[picture(side)]]) == cell


def test_a_picture_is_enlarged_whole_pixels_at_a_time_and_stands_at_its_place() -> None:
    noise = np.random.default_rng(0).integers(1, 255, (4, 8, 8), dtype=np.uint8)
    one, two, three, four = (Image.fromarray(values) for values in noise)
    grid = np.asarray(comparison_grid({"teacher": [one, two], "student": [three, four]}, ["class 0", "class 1"]))
    right, bottom = grid.shape[1] - 8, grid.shape[0] - 8
    for row, column, values in ((0, 0, noise[0]), (0, 1, noise[1]), (1, 0, noise[2]), (1, 1, noise[3])):
        left, top = right - (2 - column) * (64 + GAP), bottom - (2 - row) * (64 + GAP)
        assert (grid[top : top + 64, left : left + 64, 0] == np.kron(values, np.ones((8, 8)))).all()
        # Gaps are paper, so that pictures do not run into each other.
        assert (grid[top : top + 64, left + 64 : left + 64 + GAP] == 255).all()


def test_a_long_prompt_ends_in_dots_and_moves_no_cell() -> None:
    short, long = (comparison_grid({"a": [picture(256)]}, [title]) for title in ("a fox", "word " * 500))
    assert short.width == long.width and 0 < long.height - short.height < 100


def test_a_title_and_a_name_are_drawn() -> None:
    def ink(*titles: str, name: str = " ") -> int:
        return int((np.asarray(comparison_grid({name: [picture(256, 255)]}, titles)) < 128).sum())

    assert ink() == 0 < ink("π fox") and ink(name="teacher, 32 steps") > 0
