"""Names of LoRAs in the layouts of the original networks, brought into those of diffusers by its own converters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..teachers.base import Network
from ..teachers.text_to_image import TextToImageFamily
from .lora_names import FLAT_PREFIXES, Convert, Naming, shown, split

# As the converter of U-Nets knows them.
FLAT = "lora_unet_"
SUFFIXES = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}


def converter(model: Network, family: TextToImageFamily, naming: Naming) -> Convert:
    """What gives LoRA tensors for ``model`` the names of diffusers; it raises whatever diffusers' converters raise."""
    # A U-Net's own converter stops at the first name that it does not know.
    return _of_unet(model, family, naming) if family.component == "unet" else _of_transformer(family)


def _of_transformer(family: TextToImageFamily) -> Convert:
    def convert(given: dict[str, Tensor]) -> Mapping[str, Tensor]:
        # Not every family's reader gives alphas: some have them in the factors already.
        state, *alphas, _ = family.pipeline_class.lora_state_dict(given, return_alphas=True, return_lora_metadata=True)
        return {**state, **(alphas[0] or {} if alphas else {})}

    return convert


def _of_unet(model: Network, family: TextToImageFamily, naming: Naming) -> Convert:
    """Asks for one module at a time: blocks of two digits are taken for those of one where both are in a file."""
    kind = family.pipeline_class

    @cache
    def named(module: str) -> str:
        return _named(kind, model.config, module)

    def convert(given: dict[str, Tensor]) -> Mapping[str, Tensor]:
        made: dict[str, Tensor] = {}
        for key, value in given.items():
            module, part = split(key)
            new = f"{named(module)}.{SUFFIXES[part]}" if naming.target(key) is None and part in SUFFIXES else key
            # What has no place keeps the name that the file has for it.
            made[new if naming.target(new) is not None and new not in made else key] = value
        return made

    return convert


def _named(kind: Any, config: Any, module: str) -> str:
    """What ``module`` is in diffusers; itself if the converter does not know it."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    if ".processor." in module:
        # Of attention processors of old diffusers.
        (name,) = convert_unet_state_dict_to_peft({f"{module}_lora.down.weight": None})
        return split(name)[0]
    plain = shown(module)
    prefix = next((prefix for prefix in FLAT_PREFIXES if plain.startswith(prefix)), "")
    flat = FLAT + plain.removeprefix(prefix).replace(".", "_")
    pair = {f"{flat}.{SUFFIXES[part]}": torch.empty(0) for part in ("down", "up")}
    try:
        state, *_ = kind.lora_state_dict(pair, unet_config=config)
    except (KeyError, ValueError, IndexError):
        return module
    name, _ = split(next(iter(convert_unet_state_dict_to_peft(state))))
    # Where no attention is before it, an upsampler has the number that is taken for attention.
    return re.sub(r"attentions\.\d+\.conv", "upsamplers.0.conv", name)
