"""What families that are shown a picture tell their stock pipelines: its latents, in the place of the picture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from .encoders import REFERENCE


def named_image(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a stock pipeline is told, with the reference under the name that it has there."""
    return {"image" if name == REFERENCE else name: value for name, value in told.items()}


@cache
def handed(kind: type, taking: type) -> Any:
    """The class ``kind`` of a stock pipeline that takes no latents of a picture, and as ``taking`` has it does.

    ``taking``: overrides what encodes the picture, and calls the methods of ``kind`` as those of its super class.
    """
    return type(kind.__name__, (taking, kind), {})
