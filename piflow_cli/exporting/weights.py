"""A student's weights in one piece: adapters fused shard by shard, so that memory never holds a second base."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.tensors import all_finite
from ..errors import RunError
from ..students.shared_base import View, root
from ..weights.whole import stays_whole
from .standalone.policy_model import LORA_A, LORA_B, fused

if TYPE_CHECKING:
    from ..students.student import Student

SHARD_SIZE = "5GB"
INDEX_NAME = "diffusion_pytorch_model.safetensors.index.json"
FILE_PATTERN = "diffusion_pytorch_model{suffix}.safetensors"


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor: ``scale`` times ``value``.

    With ``factors`` (down, up) of an adapter it is ``value`` plus ``scale`` times their product.
    """

    value: Tensor
    scale: float = 1.0
    factors: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def tensor(self, dtype: torch.dtype) -> Tensor:
        """The weight on the CPU, rounded to ``dtype`` once; whole numbers stay whole."""
        value = self.value.detach()
        if self.factors is not None:
            down, up = (factor.detach().to(value.device) for factor in self.factors)
            value = fused(value, down, self.scale * up.float())
        elif self.scale != 1:
            value = self.scale * value
        return value.to("cpu", self.dtype(dtype)).contiguous()

    def dtype(self, wanted: torch.dtype) -> torch.dtype:
        """The dtype that :meth:`tensor` gives for ``wanted``."""
        return wanted if self.value.is_floating_point() else self.value.dtype


Weights = dict[str, Weight]
"""By the names that a model of diffusers with a policy head gives them."""


def merged_weights(student: Student) -> Weights:
    """Every weight of ``student``, adapters fused."""
    if not isinstance(student.model, View):
        return {name: Weight(value) for name, value in student.model.state_dict().items()}
    own = own_weights(student)
    weights: Weights = {}
    for name, value in root(student.model).state_dict().items():
        if ".lora_" in name or ".variants." in name:
            continue
        plain = name.replace(".base_layer.", ".")
        path = plain.removesuffix(".weight")
        if path + LORA_A in own:
            up = own[path + LORA_B]
            weights[plain] = Weight(value, up.scale, (own[path + LORA_A].value, up.value))
        else:
            weights[plain] = Weight(value)
    return weights | {name: weight for name, weight in own.items() if not name.endswith((LORA_A, LORA_B))}


def own_weights(student: Student) -> Weights:
    """The weights that a student with adapters brings besides its base; the product of a pair counts once."""
    scale = student.model.shared.adapter_scale
    return {
        name: Weight(value, scale if name.endswith(LORA_B) else 1.0)
        for name, value in student.model.state_dict().items()
    }


def base_dtype(student: Student) -> torch.dtype:
    """The dtype of the weights below adapters; of a fully trained student, its own."""
    own = {id(value) for value in student.model.parameters()} if isinstance(student.model, View) else set()
    base = root(student.model)
    return next(
        value.dtype
        for name, value in base.named_parameters()
        if id(value) not in own and value.is_floating_point() and not stays_whole(name, type(base))
    )


def linear_layers(model: nn.Module) -> set[str]:
    """Paths of the linear layers of a student's base, as :func:`merged_weights` has them."""
    layers = (name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".lora_" not in name)
    return {name.removesuffix(".base_layer") for name in layers if ".variants." not in name}


def save_weights(
    weights: Weights, folder: Path, dtype_of: Callable[[str], torch.dtype], metadata: Mapping[str, str]
) -> None:
    """Write ``weights`` as diffusers does: one file, or shards of at most 5 GB and their index.

    Args:
        weights: each is made, rounded, written and forgotten, a shard at a time.
        folder: an existing one.
        dtype_of: in which each floating weight is written.
        metadata: of every file; values are strings.

    Raises:
        RunError: a weight is beyond the range of its dtype.
    """
    outline = {
        name: torch.empty(weight.value.shape, dtype=weight.dtype(dtype_of(name)), device="meta")
        for name, weight in weights.items()
    }
    split = split_torch_state_dict_into_shards(outline, filename_pattern=FILE_PATTERN, max_shard_size=SHARD_SIZE)
    for file, names in split.filename_to_tensors.items():
        shard = {name: weights[name].tensor(dtype_of(name)) for name in names}
        for name, value in shard.items():
            if not all_finite(value):
                raise RunError(
                    f"{name} has values beyond the range of {value.dtype}".replace("torch.", ""), "choose --dtype bf16"
                )
        save_file(shard, folder / file, {"format": "pt", **metadata})
        # safetensors lets nobody but the owner read its files, and an export is to be handed on.
        (folder / file).chmod(0o644)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
