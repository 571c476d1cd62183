"""Frozen bases in fewer bits, and bases that wait in the CPU's memory, through the back ends of diffusers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..presets.choices import BITSANDBYTES
from .visiting import visit

# The dtype in which a base of each precision is loaded and computes; fp8 is stored in 8 bits afterwards.
COMPUTED_IN = {"fp32": torch.float32, **dict.fromkeys(("bf16", "fp8", *BITSANDBYTES), torch.bfloat16)}
OURS = (r"\.lora_", r"\.variants\.")  # paths of adapters, and of heads and copies
STORED_AS = torch.float8_e4m3fn
CASTING = "layerwise_casting"  # the hook of diffusers by which layers are stored so
LAYERS = (nn.Linear,)  # what is widened while it computes
# Their backward pass asks for the weight itself, which is narrow again by then.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_precision(precision: str, device: torch.device, *, trained: bool = False) -> None:
    """Raise UsageError where this machine lacks what a base in ``precision`` needs.

    ``trained``: a student is to be trained on it. In int8 none can be: the autograd functions of bitsandbytes keep
    their inputs where checkpointing does not see them, so that it frees nothing.
    """
    if trained and precision == "int8":
        raise UsageError(
            "a student cannot be trained on a base in int8: gradient checkpointing would free none of its memory",
            "choose --base-precision nf4, which takes half of that, or fp8",
        )
    if precision in BITSANDBYTES and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"a base in {precision} needs the package bitsandbytes", 'pip install "piflow[lowvram]"')
    if precision in BITSANDBYTES and device.type != "cuda":
        raise UsageError(f"a base in {precision} needs a CUDA device", "choose --base-precision fp8 or bf16")


def check_offloading(part: str, device: torch.device) -> None:
    """Raise UsageError where ``part`` of a model has no memory to be offloaded from."""
    if device.type != "cuda":
        raise UsageError(
            f"there is nothing to offload the {part} from: the device is {device}",
            f"leave --offload-{part.replace(' ', '-')} out",
        )


def quantised_loading(precision: str, keep: Iterable[str]) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that load linear layers in int8 or nf4, except those at ``keep``."""
    from diffusers import BitsAndBytesConfig

    options = {"llm_int8_skip_modules": list(keep)}
    if precision == "int8":
        # Above its usual threshold columns are computed apart, and each layer waits for the device to learn which.
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, **options)}
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    return {"quantization_config": BitsAndBytesConfig(**four, **options)}


def store_in_fp8(model: nn.Module, keep: Iterable[str], computes_in: torch.dtype | None = None) -> None:
    """Store the linear layers of ``model``, except those at ``keep``, in 8-bit floats, cast back while they compute.

    Convolutions keep their bits, and what is stored so already stays so.

    ``computes_in``: the dtype that they are cast to, that of the model itself where none is given. What the model's
    class marks as delicate stays as it is too, and so do the adapters and heads that it carries: peft would give
    adapters that are added afterwards the 8 bits of the layer they sit on.
    """
    from diffusers.hooks import apply_layerwise_casting

    def spared(layer: nn.Module) -> bool:
        hooks = getattr(layer, "_diffusers_hook", None)
        return isinstance(layer, CONVOLUTIONS) or (hooks is not None and hooks.get_hook(CASTING) is not None)

    own = next(value.dtype for name, value in model.named_parameters() if not _ours(name))
    dtype = own if computes_in is None else computes_in
    left = [*keep, *(path for path, layer in model.named_modules() if spared(layer))]
    apply_layerwise_casting(model, STORED_AS, dtype, skip_modules_pattern=(*delicate(model, left), *OURS))


def compute_in_float32(model: nn.Module, asked: Collection[str] = ()) -> None:
    """Let a base of 16 bits compute in float32: its layers are widened while they compute, the rest is widened now.

    ``asked``: names of small modules that ask a layer for its dtype before it is widened; they are widened for good.
    What the model is told is widened too: text encoders answer in bfloat16. Adapters and heads, which are float32
    already, are left alone, and so are layers of fewer bits, which widen themselves.
    """
    from diffusers.hooks import apply_layerwise_casting_hook

    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS) and not any(part in name for part in asked)
    ]
    for layer in layers:
        if layer.weight.dtype == torch.bfloat16:
            apply_layerwise_casting_hook(layer, torch.bfloat16, torch.float32, non_blocking=False)
    kept = {id(value) for layer in layers for value in layer.parameters()}
    for value in [*model.parameters(), *model.buffers()]:
        if id(value) not in kept and value.dtype == torch.bfloat16:
            value.data = value.data.float()
    tell_in_float32(model)


def tell_in_float32(model: nn.Module) -> None:
    """Widen what ``model`` is told in bfloat16, as text encoders answer, to float32."""
    model.register_forward_pre_hook(lambda module, given, named: _widened((given, named)), with_kwargs=True)


def _widened(value: Any) -> Any:
    """A nest of tensors, with bfloat16 ones as float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, dict):
        return {key: _widened(item) for key, item in value.items()}
    return type(value)(map(_widened, value)) if isinstance(value, (list, tuple)) else value


def delicate(model: nn.Module, keep: Iterable[str]) -> tuple[str, ...]:
    """Patterns of the paths in ``model`` that :func:`store_in_fp8` leaves alone."""
    marked = getattr(model, "_skip_layerwise_casting_patterns", None)
    return (*(marked if marked is not None else ()), *(f"^{re.escape(path)}$" for path in keep))


def offload(model: nn.Module, device: torch.device) -> None:
    """Keep the linear layers of ``model`` in the CPU's memory, except while they compute on ``device``; move the rest.

    Adapters and heads are the rest. Layer by layer: checkpointing recomputes the blocks in the opposite order, and
    fetching ahead would count on that of the forward pass.
    """
    layers = [layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and not _ours(name)]
    visit(layers, device)
    waiting = {id(value) for layer in layers for value in layer.parameters(recurse=False)}
    for value in [*model.parameters(), *model.buffers()]:
        if id(value) not in waiting:
            value.data = value.data.to(device)


def _ours(name: str) -> bool:
    """Whether a dotted path lies in a part that a student adds to its base."""
    return any(re.search(pattern, name) for pattern in OURS)
