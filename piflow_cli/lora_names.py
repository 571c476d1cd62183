"""Names of LoRA tensors, of every tool that users bring files of, to modules of a network of diffusers and parts of a LoRA.

Where a file names the modules of diffusers, whatever stands before and behind them, its names are read here. Layouts of the
original networks are brought into that form by diffusers' own converters, and every tensor that they leave unused is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# What tools put before a module's own name, longest first where one begins another.
PREFIXES = ("transformer.base_model.model.", "base_model.model.transformer.", "base_model.model.", "transformer.", "diffusion_model.", "")
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
TEXT_ENCODER = re.compile(r"(text_encoders?(_\d)?[._]|lora_te\d?_|te\d?[._]|text_model\.|conditioner\.|cond_stage_model\.).*")
# Of peft a name of the adapter may stand before the last part: lora_A.default.weight.
PARTS = {
    "down": re.compile(r"(?P<module>.+)\.(lora_A(\.\w+)?\.weight|lora_down\.weight|lora\.down\.weight|lora_linear_layer\.down\.weight)"),
    "up": re.compile(r"(?P<module>.+)\.(lora_B(\.\w+)?\.weight|lora_up\.weight|lora\.up\.weight|lora_linear_layer\.up\.weight)"),
    "alpha": re.compile(r"(?P<module>.+)\.alpha"),
    "magnitude": re.compile(r"(?P<module>.+)\.lora_magnitude_vector((\.\w+)?\.weight)?"),
}
Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Place:
    """What a tensor is: a ``part`` (a key of PARTS) of the LoRA on ``module``, a dotted path in the network."""

    module: str
    part: str


class Naming:
    """Reads names of LoRA tensors for a network that has ``modules`` (dotted paths)."""

    def __init__(self, modules: Collection[str]) -> None:
        self.modules = frozenset(modules)
        self._flat = {name.replace(".", "_"): name for name in modules}

    def place(self, key: str) -> Place | None:
        """What ``key`` is a name of; None if it names no part of a LoRA, or no module of the network."""
        module, part = split(key)
        if part is None:
            return None
        for prefix in PREFIXES:
            if module.startswith(prefix) and module.removeprefix(prefix) in self.modules:
                return Place(module.removeprefix(prefix), part)
        for prefix in FLAT_PREFIXES:
            if module.startswith(prefix) and (name := self._flat.get(module.removeprefix(prefix))) is not None:
                return Place(name, part)
        return None

    def places(self, tensors: Mapping[str, Tensor], convert: Convert) -> tuple[dict[Place, Tensor], list[str]]:
        """Every tensor by its place, and the names of those that have none.

        ``convert`` is asked where the names are not those of diffusers: it gives the tensors that it makes of them new names.
        """
        # Some tools write zeros for what they did not train.
        unknown = [key for key, value in tensors.items() if self.place(key) is None and (split(key)[1] or value.any())]
        # A tensor that is no part of a LoRA is no matter of layouts.
        if not any(split(key)[1] for key in unknown):
            return self._placed(tensors)[0], unknown
        given = {key: Traced.of(value, key) for key, value in tensors.items()}
        Traced.read.clear()
        placed, strange = self._placed(convert(dict(given)))
        used = Traced.read.union(*(value.names for value in placed.values() if isinstance(value, Traced)))
        unused = [key for key, value in tensors.items() if key not in used and (split(key)[1] or value.any())]
        # What passes through unchanged and fits nowhere is unused under its own name.
        strange = [key for key in strange if key not in tensors]
        return {place: value.as_subclass(Tensor) for place, value in placed.items()}, unused + strange

    def _placed(self, tensors: Mapping[str, Tensor]) -> tuple[dict[Place, Tensor], list[str]]:
        placed: dict[Place, Tensor] = {}
        strange = []
        for key, value in tensors.items():
            place = self.place(key)
            if place is None or place in placed:
                strange.append(key)
            else:
                placed[place] = value
        return placed, strange


def split(key: str) -> tuple[str, str | None]:
    """The module that a name begins with and the part of a LoRA that it ends with; the name and None if it ends with none."""
    for part, pattern in PARTS.items():
        if (match := pattern.fullmatch(key)) is not None:
            return match["module"], part
    return key, None


def shown(key: str) -> str:
    """The module that a name of a LoRA tensor is about, without what tools put before it."""
    module = split(key)[0]
    return module.removeprefix(next(prefix for prefix in PREFIXES if module.startswith(prefix)))


class Traced(Tensor):
    """A tensor that knows of which named tensors it was made; ``read`` has the names of those whose value was asked for."""

    names: frozenset[str]
    read: set[str] = set()

    @classmethod
    def of(cls, value: Tensor, name: str) -> Traced:
        traced = value.as_subclass(cls)
        traced.names = frozenset((name,))
        return traced

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        made = super().__torch_function__(func, types, args, {} if kwargs is None else kwargs)
        sources = frozenset().union(*_names(args), *_names(tuple((kwargs or {}).values())))
        if func in (Tensor.item, Tensor.__float__):
            cls.read |= sources
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, Traced):
                value.names = sources
        return made


def _names(values: object) -> list[frozenset[str]]:
    if isinstance(values, Traced):
        return [getattr(values, "names", frozenset())]
    if isinstance(values, (tuple, list)):
        return [names for value in values for names in _names(value)]
    return []
