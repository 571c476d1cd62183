"""The recipe in a PNG or a GIF, by which pictures and videos of piflow are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

RECIPE_KEY = "piflow"
GRID_KEY = "grid"


def recipe_in(picture: Image) -> dict[str, Any] | None:
    """The recipe that an opened picture carries, a GIF in its comment; None for pictures of others."""
    try:
        recipe = json.loads(picture.info[RECIPE_KEY] if RECIPE_KEY in picture.info else picture.info["comment"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return recipe if isinstance(recipe, dict) and (RECIPE_KEY in picture.info or RECIPE_KEY in recipe) else None


def is_grid(recipe: dict[str, Any] | None) -> bool:
    """Whether a recipe is that of a picture which shows all others."""
    # Grids of 0.1.0 have no mark; every single picture has its seed.
    return recipe is not None and (GRID_KEY in recipe or ("piflow" in recipe and "seed" not in recipe))


def recipe_of(path: Path) -> dict[str, Any] | None:
    """The recipe in the file ``path``; None where it has none, or is no picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return recipe_in(picture)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None
