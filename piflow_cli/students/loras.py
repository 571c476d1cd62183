"""Further LoRAs beside a student's own adapters, or on a teacher."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.heads import PolicyHead
from ..errors import RunError, UsageError
from ..teachers.base import Network
from ..teachers.text_to_image import TextToImageFamily
from ..weights.quantisation import CONVOLUTIONS
from ..wording import few
from .lora_files import OPTION, LoraFile, read_lora
from .lora_layouts import converter
from .lora_names import TEXT_ENCODER, LoraTarget, Naming, shown, split
from .shared_base import REST, Switch

INSIDE = re.compile(r"\.(lora_\w+|base_layer|variants)(\.|$)")
LEAVE_OUT = "leave it out"


@dataclass(frozen=True)
class Factors:
    """The LoRA of one module: ``up`` (out, r) @ ``down`` (r, in), times alpha / r.

    For a convolution (out, r, 1, 1) and (r, in, height, width). ``magnitude`` (out,) makes it a DoRA.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def add_loras(
    model: Network,
    own: Sequence[str],
    family: TextToImageFamily,
    loras: Sequence[tuple[str, float]],
    warn: Callable[[str], None] = lambda line: None,
) -> None:
    """Put ``loras``, each with its scale, on ``model`` beside the adapters ``own``, which stay as they are.

    Where a student trains a layer in full, its own copy takes the LoRA. What is for the text encoders is left out,
    which ``warn`` is told.

    Raises:
        UsageError: a LoRA is for another model, or for the output projection, which a student has none of; or a tensor
            of it has no use here.
        RunError: it is damaged, or holds values that are not finite.
    """
    names = []
    for number, (path, _) in enumerate(loras):
        file = read_lora(path)
        factors = factors_of(model, family, file, warn)
        names.append(f"lora_{number}")
        _put(model, factors, names[-1])
    if names:
        model.set_adapters([*own, *names], [1.0] * len(own) + [scale for _, scale in loras])


def cast_adapters(model: Network, dtype: torch.dtype) -> None:
    """Hold all adapters in ``dtype``, as training under autocast does; float32 is many times slower."""
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.lora_A.to(dtype)
            layer.lora_B.to(dtype)


def layers_under_magnitudes(model: Network) -> set[str]:
    """Dotted paths of the layers under a DoRA: it reads their weights between calls, so they stay out of 8 bits."""
    return {
        f"{name}.base_layer"
        for name, module in model.named_modules()
        if len(getattr(module, "lora_magnitude_vector", ())) > 0
    }


def factors_of(
    model: Network, family: TextToImageFamily, file: LoraFile, warn: Callable[[str], None], option: str = OPTION
) -> dict[str, Factors]:
    """The LoRA of every module, by its path in ``model``; errors are those of :func:`add_loras`.

    ``warn`` is told what is left out; ``option`` names a LoRA in hints.
    """
    texts = [key for key in file.tensors if TEXT_ENCODER.fullmatch(key)]
    tensors = {key: value for key, value in file.tensors.items() if key not in texts}
    if not any(split(key)[1] in ("down", "up") for key in tensors) and not any(
        "dora" in key or "lokr" in key for key in tensors
    ):
        what = f"{file.path} holds no LoRA for a {family.model_name}, but {few(list(file.tensors))}"
        raise UsageError(what, f"name the file of one: {option}")
    targets, unused = _targets(model, family, tensors)
    if unused:
        raise _unused(file.path, unused, tensors, model)
    parts: dict[str, dict[str, Tensor]] = {}
    for target, value in targets.items():
        parts.setdefault(target.module, {})[target.part] = value
    if texts:
        warn(f"{file.path} is for the text encoders too: {few(texts)}; that part is left out, and pictures may differ")
    found = {}
    for module, having in sorted(parts.items()):
        path = _switched(model, module)
        layer = _layer(model, path)
        _check_takes(layer, module, file.path)
        found[path] = _whole(file, module, having, layer)
    _check_fits(model, found, file.path)
    _check_magnitudes(file, found)
    return found


def _targets(
    model: Network, family: TextToImageFamily, tensors: Mapping[str, Tensor]
) -> tuple[dict[LoraTarget, Tensor], list[str]]:
    naming = Naming([name for name, _ in model.named_modules() if name and not INSIDE.search(f".{name}")])
    return naming.targets(tensors, converter(model, family, naming))


def _unused(path: str, keys: Sequence[str], tensors: Mapping[str, Tensor], model: Network) -> UsageError:
    """The error for tensors that have no use here."""
    magnitudes = [key for key in keys if key.endswith("dora_scale")]
    if magnitudes:
        what = f"{path} is a DoRA by another tool than peft: {few(magnitudes)} would be lost"
        return UsageError(what, f"{LEAVE_OUT}, or convert it to peft's form")
    strange = [key for key in keys if split(key)[1] in ("down", "up", "magnitude")]
    if strange and all(key in tensors for key in strange):
        more = f" (and {len(strange) - 1} more tensors without a place)" if len(strange) > 1 else ""
        if shown(strange[0]) in dict(model.named_modules()):
            what = f"{path} holds more than one LoRA for {shown(strange[0])}: {few(strange)}"
            return UsageError(what, "save one of them in a file of its own")
        what = f"it has weights for {shown(strange[0])}, which this {type(model).__name__} lacks{more}"
        return UsageError(f"{path} is a LoRA for another model: {what}", LEAVE_OUT)
    return UsageError(
        f"{path} has tensors that nothing here takes: {few(keys)}", f"{LEAVE_OUT}, or save it without them"
    )


def _whole(file: LoraFile, module: str, parts: Mapping[str, Tensor], layer: nn.Module) -> Factors:
    if missing := [part for part in ("down", "up") if part not in parts]:
        raise RunError(f"{file.path} is incomplete: {module} has no {missing[0]} factor", "copy it again")
    # A layer of 1 x 1 pixels is a linear one, and some tools write its factors so.
    kernel = getattr(layer, "kernel_size", ())
    down, up = (_with_pixels(parts[part], kernel) for part in ("down", "up"))
    pair = down.ndim == up.ndim == 2 + len(kernel) and 0 != down.shape[0] == up.shape[1]
    if not pair or down.shape[2:] != kernel or set(up.shape[2:]) - {1}:
        shapes = f"{tuple(parts['down'].shape)} and {tuple(parts['up'].shape)}"
        of = f"a convolution of {' x '.join(map(str, kernel))}" if kernel else "a linear layer"
        raise UsageError(
            f"{file.path}: the factors of {module} have shapes {shapes}, which are no LoRA of {of}", LEAVE_OUT
        )
    rank = down.shape[0]
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise RunError(
            f"{file.path} is damaged: the alpha of {module} is {tuple(parts['alpha'].shape)}, not one number",
            "copy it again",
        )
    alpha = parts["alpha"].item() if "alpha" in parts else file.scale(module, rank) * rank
    return Factors(down, up, alpha, parts.get("magnitude"))


def _with_pixels(factor: Tensor, kernel: tuple[int, ...]) -> Tensor:
    return factor.reshape(*factor.shape, *kernel) if factor.ndim == 2 and set(kernel) == {1} else factor


def _layer(model: Network, path: str) -> nn.Module:
    """The layer at ``path``, below the adapters that it has already."""
    layer = model.get_submodule(path)
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


def _check_takes(layer: nn.Module, module: str, path: str) -> None:
    if isinstance(layer, PolicyHead):
        raise UsageError(
            f"{path} has weights for {module}, in whose place the student has a policy head",
            "leave it out, or sample the teacher with it",
        )
    if not hasattr(layer, "in_features") and not (isinstance(layer, CONVOLUTIONS) and layer.groups == 1):
        what = f"{path} has a LoRA for {module}, a {type(layer).__name__}"
        raise UsageError(f"{what}, and only linear layers and convolutions without groups take one", LEAVE_OUT)


def _widths(layer: nn.Module) -> tuple[int, int]:
    """Values in and out of a linear layer, channels of a convolution."""
    into, out = ("in_features", "out_features") if hasattr(layer, "in_features") else ("in_channels", "out_channels")
    return getattr(layer, into), getattr(layer, out)


def _switched(model: Network, module: str) -> str:
    """The path of a module; for a switch, of the student's own version."""
    return f"{module}.variants.{REST}" if isinstance(model.get_submodule(module), Switch) else module


def _check_fits(model: Network, found: Mapping[str, Factors], path: str) -> None:
    for module, factors in found.items():
        layer, plain = _layer(model, module), module.removesuffix(f".variants.{REST}")
        into, out = _widths(layer)
        for has, wants in ((factors.down.shape[1], into), (factors.up.shape[0], out)):
            if has != wants:
                raise UsageError(
                    f"{path} is a LoRA for another model: {plain} is {has} wide in it, and {wants} here", LEAVE_OUT
                )
        if factors.magnitude is not None and factors.magnitude.numel() != out:
            count = factors.magnitude.numel()
            raise UsageError(f"{path} has {count} magnitudes for {plain}, which is {out} wide", LEAVE_OUT)


def _check_magnitudes(file: LoraFile, found: Mapping[str, Factors]) -> None:
    """Raise RunError where a DoRA lacks magnitudes, which peft would draw from the base."""
    without = [module for module, factors in found.items() if factors.magnitude is None]
    if without and (file.is_dora or len(without) < len(found)):
        raise RunError(
            f"{file.path} is a DoRA without all of its magnitudes: {few(without)} has none",
            "copy it again, or leave it out",
        )


def _put(model: Network, found: Mapping[str, Factors], name: str) -> None:
    """Inject the adapter ``name`` and fill it; every module has its own rank and alpha."""
    from peft import LoraConfig

    rank = Counter(factors.rank for factors in found.values()).most_common(1)[0][0]
    # Anchored: the pattern proj_out would be that of single_transformer_blocks.0.proj_out too.
    paths = {f"^{re.escape(module)}": factors for module, factors in found.items()}
    config = LoraConfig(
        r=rank,
        rank_pattern={path: factors.rank for path, factors in paths.items()},
        lora_alpha=rank,
        alpha_pattern={path: factors.alpha for path, factors in paths.items()},
        target_modules="|".join(map(re.escape, found)),
        use_dora=any(factors.magnitude is not None for factors in found.values()),
    )
    with warnings.catch_warnings():
        # That there are several adapters is the point, and that a name ends like another is no fault of the file.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        warnings.filterwarnings("ignore", "While injecting the PEFT adapters", RuntimeWarning)
        model.add_adapter(config, name)
    for module, factors in found.items():
        layer = model.get_submodule(module)
        slots = {layer.lora_A[name].weight: factors.down, layer.lora_B[name].weight: factors.up}
        if factors.magnitude is not None:
            slot = layer.lora_magnitude_vector[name].weight
            slots[slot] = factors.magnitude.reshape(slot.shape)
        with torch.no_grad():
            for slot, value in slots.items():
                slot.copy_(value)
