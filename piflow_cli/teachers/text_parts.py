"""The text encoders in the folder of a stock pipeline: their presence, size, and loading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..errors import UsageError
from .loading import load_text_encoder


def missing_parts(folder: Path) -> list[str]:
    """The index, text encoders, tokenizers and processor of a pipeline that ``folder`` lacks."""
    index = folder / "model_index.json"
    if not index.is_file():
        return [name for name in ("model_index.json", "text_encoder") if not (folder / name).exists()]
    parts = json.loads(index.read_text(encoding="utf-8"))
    kinds = ("text_encoder", "tokenizer", "processor")
    texts = [name for name, value in parts.items() if name.startswith(kinds) and value[0] is not None]
    return [name for name in texts or ["text_encoder"] if not (folder / name).is_dir()]


def no_text_encoder(folder: Path, missing: Sequence[str]) -> UsageError:
    """The error about a ``folder`` that is no whole pipeline, since those parts are ``missing``."""
    return UsageError(
        f"{folder} has no text encoder: there is no {' and no '.join(missing)} in it",
        "name the folder or Hub id of a whole pipeline: --base PATH",
    )


def text_encoders(folder: Path) -> dict[str, nn.Module]:
    """The text encoders of a pipeline's index, checked, in bfloat16; a pipeline would load them unchecked."""
    import transformers

    parts = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    named = {name: value for name, value in parts.items() if name.startswith("text_encoder")}
    kinds = {
        name: getattr(transformers, kind, None) for name, (library, kind) in named.items() if library == "transformers"
    }
    return {
        name: load_text_encoder(kind, folder / name, torch.bfloat16) for name, kind in kinds.items() if kind is not None
    }


def encoder_bytes(folder: Path, offload: bool) -> int | None:
    """As :meth:`~piflow_cli.teachers.text_to_image.TextToImageFamily.text_encoder_bytes`."""
    configs = sorted(folder.glob("text_encoder*/config.json"))
    if not configs:
        return None
    import transformers

    layers: list[int] = []
    for path in configs:
        config = transformers.AutoConfig.from_pretrained(path.parent)
        with torch.device("meta"):
            model = getattr(transformers, config.architectures[0])(config)
        # Weights that two layers share count once.
        owners = {
            id(value): (layer, 2 * value.numel())
            for layer in model.modules()
            for value in layer.parameters(recurse=False)
        }
        sizes: dict[int, int] = {}
        for layer, size in owners.values():
            sizes[id(layer)] = sizes.get(id(layer), 0) + size
        layers += sizes.values()
    return sum(sorted(layers)[-2:] if offload else layers)
