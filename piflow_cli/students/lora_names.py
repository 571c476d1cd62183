"""From names of LoRA tensors, as many tools write them, to modules of a diffusers network and parts of a LoRA.

Where a file names the modules of diffusers, whatever stands before and behind them, its names are read here. Layouts of
the original networks are brought into that form by diffusers' own converters, and every tensor that they leave unused
is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

# Prefixes that tools put before a module's own name, longest first where one begins another.
PREFIXES = (
    "transformer.base_model.model.", "base_model.model.transformer.", "unet.base_model.model.",
    "base_model.model.unet.", "base_model.model.", "transformer.", "unet.", "model.diffusion_model.",
    "diffusion_model.", "",
)  # fmt: skip
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
TEXT_ENCODER = re.compile(
    r"(text_encoders?(_\d)?[._]|lora_te\d?_|te\d?[._]|text_model\.|conditioner\.|cond_stage_model\.).*"
)
# In peft's files the adapter's name may stand before the last part: lora_A.default.weight. Attention processors of old
# diffusers had the layer's name in that of its LoRA: to_q_lora.down.weight.
PARTS = {
    "down": re.compile(
        r"(?P<module>.+)(\.lora_A(\.[^.]+)?\.weight|\.lora_down\.weight|[._]lora\.down\.weight|"
        r"\.lora_linear_layer\.down\.weight)"
    ),
    "up": re.compile(
        r"(?P<module>.+)(\.lora_B(\.[^.]+)?\.weight|\.lora_up\.weight|[._]lora\.up\.weight|"
        r"\.lora_linear_layer\.up\.weight)"
    ),
    "alpha": re.compile(r"(?P<module>.+)\.alpha"),
    "magnitude": re.compile(r"(?P<module>.+)\.lora_magnitude_vector((\.[^.]+)?\.weight)?"),
}
OLDER_NAMES = ((".lora_A.", ".lora_down."), (".lora_B.", ".lora_up."))
Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class LoraTarget:
    """The target of a LoRA tensor: a ``part`` (a key of PARTS) of ``module``, a dotted path in the network."""

    module: str
    part: str


class Naming:
    """Reads names of LoRA tensors for a network that has ``modules`` (dotted paths)."""

    def __init__(self, modules: Collection[str]) -> None:
        self.modules = frozenset(modules)
        self._flat = {name.replace(".", "_"): name for name in modules}

    def target(self, key: str) -> LoraTarget | None:
        """The target that ``key`` names; None if it names no part of a LoRA, or no module of the network."""
        module, part = split(key)
        if part is None:
            return None
        for prefix in PREFIXES:
            if module.startswith(prefix) and module.removeprefix(prefix) in self.modules:
                return LoraTarget(module.removeprefix(prefix), part)
        for prefix in FLAT_PREFIXES:
            if module.startswith(prefix) and (name := self._flat.get(module.removeprefix(prefix))) is not None:
                return LoraTarget(name, part)
        return None

    def targets(self, tensors: Mapping[str, Tensor], convert: Convert) -> tuple[dict[LoraTarget, Tensor], list[str]]:
        """Every tensor by its target, and the names of those that have none.

        ``convert`` is asked where the names are not those of diffusers: it gives the tensors that it makes of them new
        names.
        """
        placed, strange = self._placed(tensors)
        # A tensor that is no part of a LoRA is no matter of layouts; two tensors for one target are none either.
        if all(split(key)[1] is None or self.target(key) is not None for key in strange):
            return placed, _with_effect(strange, tensors)
        # Some converters know the factors of the original layouts by one pair of names, some by the other.
        tried = [
            self._converted(tensors, pairs, convert)
            for pairs in ((), OLDER_NAMES, [(older, newer) for newer, older in OLDER_NAMES])
        ]
        return min(tried, key=lambda result: len(result[1]))

    def _converted(
        self, tensors: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]], convert: Convert
    ) -> tuple[dict[LoraTarget, Tensor], list[str]]:
        """The tensors as ``convert`` gives them.

        Before that, the second of each of ``pairs`` replaces the first in the names.
        """
        given: dict[str, Tensor] = {
            _replaced(key, pairs): TracedTensor.of(value, key) for key, value in tensors.items()
        }
        TracedTensor.read.clear()
        try:
            placed, strange = self._placed(convert(given))
        except Exception as error:
            # Converters raise whatever an unexpected name leads them to, and some say which it was.
            unknown = [key for key in tensors if self.target(key) is None]
            named = [key for key in unknown if key in str(error)]
            return {}, named if named else unknown
        used = TracedTensor.read.union(*(value.names for value in placed.values() if isinstance(value, TracedTensor)))
        unused = _with_effect([key for key in tensors if key not in used], tensors)
        # A tensor that passes through unchanged and fits nowhere counts as unused under its own name.
        strange = [key for key in strange if key not in tensors]
        return {target: value.as_subclass(Tensor) for target, value in placed.items()}, unused + strange

    def _placed(self, tensors: Mapping[str, Tensor]) -> tuple[dict[LoraTarget, Tensor], list[str]]:
        placed: dict[LoraTarget, Tensor] = {}
        strange = []
        for key, value in tensors.items():
            target = self.target(key)
            if target is None or target in placed:
                strange.append(key)
            else:
                placed[target] = value
        return placed, strange


def split(key: str) -> tuple[str, str | None]:
    """The module in front of a name and the part of a LoRA at its end; the name and None where it ends with none."""
    for part, pattern in PARTS.items():
        if (match := pattern.fullmatch(key)) is not None:
            return match["module"], part
    return key, None


def shown(key: str) -> str:
    """The module in the name of a LoRA tensor, without the prefixes that tools add."""
    module = split(key)[0]
    return module.removeprefix(next(prefix for prefix in PREFIXES if module.startswith(prefix)))


def _with_effect(keys: Sequence[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Those of ``keys`` that are parts of a LoRA, or not zero: some tools write zeros for what they did not train."""
    return [key for key in keys if split(key)[1] is not None or tensors[key].any()]


def _replaced(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


class TracedTensor(Tensor):
    """A tensor that knows the named tensors it was made of; ``read`` has the names whose value was asked for."""

    names: frozenset[str]
    read: set[str] = set()

    @classmethod
    def of(cls, value: Tensor, name: str) -> TracedTensor:
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
            if isinstance(value, TracedTensor):
                value.names = sources
        return made


def _names(values: object) -> list[frozenset[str]]:
    if isinstance(values, TracedTensor):
        return [getattr(values, "names", frozenset())]
    if isinstance(values, (tuple, list)):
        return [names for value in values for names in _names(value)]
    return []
