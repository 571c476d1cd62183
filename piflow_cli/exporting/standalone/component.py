"""A part of a pipeline that lies elsewhere; it travels in the folder that it stands for."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from torch import nn

REFERENCE = "elsewhere.json"
LIBRARIES = ("diffusers", "transformers")


class Elsewhere(nn.Module):
    """Loads the part that ``elsewhere.json`` names.

    That file has ``library`` and ``class``, and ``place``, ``subfolder``, ``revision``. No object of this class is
    made; it is a module so that diffusers hands on the dtype.
    """

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Any:
        """The part that the folder stands for."""
        told = json.loads(Path(folder, REFERENCE).read_text(encoding="utf-8"))
        if told["library"] not in LIBRARIES:
            raise ValueError(
                f"{REFERENCE} names the library {told['library']!r}, and parts are of {' or '.join(LIBRARIES)}"
            )
        kind = getattr(importlib.import_module(told["library"]), told["class"])
        if not issubclass(kind, nn.Module):
            options = {}
        return kind.from_pretrained(told["place"], subfolder=told["subfolder"], revision=told["revision"], **options)
