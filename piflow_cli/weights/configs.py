"""Checks of the configs beside a model's weights, before a library reads them and fails without naming them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import RunError

# Parts of a pipeline whose configs name their class in a key of diffusers.
OF_DIFFUSERS = ("transformer", "unet", "vae")
INDEX_NAME = "model_index.json"
CLASS_KEY = "_class_name"
LARGEST = 1 << 22  # bytes


def check_configs(paths: Iterable[Path], hint: str) -> None:
    """Raise RunError, with ``hint``, for the first of ``paths`` that is a damaged config of a model or pipeline."""
    for path in paths:
        if path.name not in ("config.json", INDEX_NAME):
            continue
        config = _read(path, hint)
        named = path.name == INDEX_NAME or path.parent.name in OF_DIFFUSERS
        if named and not isinstance(config.get(CLASS_KEY), str):
            raise RunError(f"{path} does not say what it is the config of: {CLASS_KEY} is missing", hint)


def _read(path: Path, hint: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(LARGEST))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON: it is damaged or cut short", hint) from error
    if not isinstance(config, dict):
        raise RunError(f"{path} is not the config of a model", hint)
    return config
