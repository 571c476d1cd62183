"""Further LoRAs beside a student's own adapters, or on a teacher."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .errors import RunError, UsageError, explain
from .teachers.locate import hub_id
from .teachers.text_to_image import TextToImageFamily
from .views import REST, Switch

PREFIX = "transformer"
FACTOR = ".lora_A.", ".lora_B."
NAME_ONE = "name a .safetensors file, a folder with one, or a Hub id: --lora PATH[:SCALE]"


def check_files(loras: Sequence[tuple[str, float]]) -> None:
    """Raise UsageError for a path at which nothing is."""
    for path, _ in loras:
        if not Path(path).exists() and hub_id(path) is None:
            raise UsageError(f"there is no LoRA at {path}", NAME_ONE)
        if Path(path).is_file() and Path(path).suffix != ".safetensors":
            raise UsageError(f"{path}: LoRAs are read from .safetensors alone", NAME_ONE)


def add_loras(model: nn.Module, own: Sequence[str], family: TextToImageFamily, loras: Sequence[tuple[str, float]]) -> None:
    """Put ``loras``, each with its scale, on ``model`` beside the adapters ``own``, which stay as they are.

    Where a student trains a layer in full, its own copy takes the LoRA. Raises UsageError for a LoRA of another model or of
    the output projection, which a student has none of.
    """
    names = []
    for number, (path, _) in enumerate(loras):
        state, alphas, metadata = _read(family, path)
        state, alphas = ({_switched(model, name): value for name, value in part.items()} for part in (state, alphas))
        _check_fits(model, state, path)
        names.append(f"lora_{number}")
        with warnings.catch_warnings():
            # That there are several adapters is the point, and that a name ends like another is no fault of the file.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            warnings.filterwarnings("ignore", "While injecting the PEFT adapters", RuntimeWarning)
            # diffusers takes alphas from the file or from its metadata, and refuses both.
            told = {"network_alphas": alphas} if alphas else {"metadata": metadata}
            model.load_lora_adapter(state, prefix=PREFIX, adapter_name=names[-1], **told)
    if names:
        model.set_adapters([*own, *names], [1.0] * len(own) + [scale for _, scale in loras])


def cast_adapters(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold all adapters in ``dtype``: training under autocast computes with them so, and float32 is many times slower."""
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.lora_A.to(dtype)
            layer.lora_B.to(dtype)


def _read(family: TextToImageFamily, path: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict | None]:
    """Factors, alphas and metadata of a LoRA under the names of diffusers, whatever tool has written it."""
    reader = family.pipeline_class.lora_state_dict
    try:
        # Not every family's reader gives alphas: some have them in the factors already.
        state, *alphas, metadata = reader(path, return_alphas=True, return_lora_metadata=True, use_safetensors=True)
    except SafetensorError as error:
        raise RunError(f"{path} is corrupt or cut short: {error}", "copy it again") from error
    except (ValueError, KeyError, OSError) as error:
        # diffusers has the Hub's own error as the cause of one that says less.
        for link in (error, error.__cause__):
            if link is not None and (known := explain(link)) is not None:
                raise type(known)(f"{path}: {known.message}", known.hint) from error
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path} is no LoRA for {family.model_name}: {said:.100}", NAME_ONE) from error
    found = {name: value for name, value in state.items() if name.startswith(f"{PREFIX}.") and any(factor in name for factor in FACTOR)}
    if not found:
        raise UsageError(f"{path} holds no LoRA for a {family.model_name}", NAME_ONE)
    return found, dict(alphas[0] or {}) if alphas else {}, metadata


def _switched(model: nn.Module, name: str) -> str:
    """A name whose module is a switch goes on to the student's own version of it."""
    path = name.removeprefix(f"{PREFIX}.")
    module = path.rpartition(".lora_")[0] if ".lora_" in path else path.rpartition(".")[0]
    inside = dict(model.named_modules()).get(module)
    return f"{PREFIX}.{module}.variants.{REST}{path.removeprefix(module)}" if isinstance(inside, Switch) else name


def _check_fits(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    modules = dict(model.named_modules())
    kind = type(model).__name__
    for name, value in state.items():
        module, _, factor = name.removeprefix(f"{PREFIX}.").rpartition(".lora_")
        layer = modules.get(module)
        shown = module.removesuffix(f".variants.{REST}")
        if layer is None:
            raise UsageError(f"{path} is a LoRA for another model: it has weights for {shown}, which this {kind} lacks", "leave it out")
        if not hasattr(layer, "in_features"):
            raise UsageError(
                f"{path} has weights for {shown}, in whose place the student has a policy head", "leave it out, or sample the teacher with it"
            )
        sides = (value.shape[1], layer.in_features) if factor.startswith("A") else (value.shape[0], layer.out_features)
        if sides[0] != sides[1]:
            raise UsageError(f"{path} is a LoRA for another model: {shown} is {sides[0]} wide in it, and {sides[1]} here", "leave it out")
