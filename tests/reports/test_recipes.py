"""The recipe in a PNG: which pictures show all others."""

from __future__ import annotations

import pytest
from PIL import Image

from piflow_cli.reports.images import save_png
from piflow_cli.reports.recipes import is_grid, recipe_in


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (None, False),
        ({"piflow": "0.2.0", "seed": 3}, False),
        ({"piflow": "0.1.0", "teacher": "digits"}, True),
        ({"grid": True}, True),
        ({"seed": 3, "evaluations": 2}, False),
    ],
)
def test_a_grid_is_known_by_its_recipe(tmp_path, recipe: dict | None, expected: bool) -> None:
    save_png(Image.new("L", (4, 4)), tmp_path / "x.png", recipe)
    with Image.open(tmp_path / "x.png") as picture:
        assert is_grid(recipe_in(picture)) is expected


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_another_programs_text_is_no_recipe(text: str) -> None:
    picture = Image.new("L", (4, 4))
    picture.info["piflow"] = text
    assert not is_grid(recipe_in(picture))
