"""Files of LoRAs: found on this machine or on the Hub, read whole, every value checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, UsageError, explain, is_unreachable
from ..weights.locate import COMPONENTS, hub_id, locate
from ..weights.stored import read_safetensors

if TYPE_CHECKING:
    from torch import Tensor

OPTION = "--lora PATH[:SCALE]"
TEACHER_OPTION = "--teacher-lora PATH[:SCALE]"
NAME_ONE = "name a .safetensors file, a folder with one, or a Hub id"
SUFFIX = ".safetensors"
# As diffusers saves LoRAs.
USUAL_NAME = "pytorch_lora_weights.safetensors"
DIFFUSERS_METADATA = "lora_adapter_metadata"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
NETWORKS = tuple(f"{name}." for name in COMPONENTS)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as some tool wrote it.

    ``tensors``: by its own names. ``config``: its scales in peft's fields, or nothing.
    """

    path: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]

    @property
    def is_dora(self) -> bool:
        """Whether the file says that it has magnitudes (DoRA, arXiv 2402.09353)."""
        return bool(self.config.get("use_dora", False))

    def scale(self, module: str, rank: int) -> float:
        """The factor of the product of adapters of ``rank`` at ``module``, as peft reads ``config``; 1 without one."""
        alpha = _of_module(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha"))
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora", False) else rank)


def check_files(loras: Sequence[tuple[str, float]], option: str = OPTION) -> None:
    """Raise UsageError for a path that does not exist, or is no file of LoRAs; ``option`` names one in hints."""
    for path, _ in loras:
        if not Path(path).exists() and hub_id(path) is None:
            raise UsageError(f"there is no LoRA at {path}", f"{NAME_ONE}: {option}")
        if Path(path).is_file() and Path(path).suffix != SUFFIX:
            raise UsageError(f"{path}: LoRAs are read from {SUFFIX} alone", f"{NAME_ONE}: {option}")


def read_lora(path: str, option: str = OPTION) -> LoraFile:
    """The LoRA at ``path``; ``option`` names one in hints.

    Raises UsageError where there is none or more than one, and RunError for damage and values that are not finite.
    """
    from ..core.tensors import all_finite

    file = find_lora(path, option)
    metadata, stored = read_safetensors(file)
    # Nothing is computed in 8 bits.
    tensors = {
        name: value.float() if value.is_floating_point() and value.itemsize == 1 else value
        for name, value in stored.items()
    }
    for name, value in tensors.items():
        if not all_finite(value):
            hint = "leave it out, or use another state of that training"
            raise RunError(f"{file} is damaged: {name} has values that are not finite", hint)
    return LoraFile(path, tensors, _config(file, metadata))


def _config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    beside = file.with_name(PEFT_CONFIG)
    place = beside if file.name == PEFT_WEIGHTS and beside.is_file() else file
    try:
        if place == beside:
            config = dict(json.loads(beside.read_text(encoding="utf-8")))
        else:
            told = dict(json.loads(metadata.get(DIFFUSERS_METADATA, "{}")))
            config = {key.partition(".")[2]: value for key, value in told.items() if key.startswith(NETWORKS)}
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{place} does not say its scales: what it says of them is no JSON object", "copy it again"
        ) from error
    pattern = {} if config.get("alpha_pattern") is None else config["alpha_pattern"]
    if not isinstance(pattern, dict) or not all(map(_is_expression, pattern)):
        raise RunError(
            f"{place} has scales of no modules: alpha_pattern {pattern!r:.100}, whose keys are regular expressions",
            "copy it again",
        )
    alphas = [config.get("lora_alpha"), *pattern.values()]
    if wrong := [
        alpha
        for alpha in alphas
        if alpha is not None and (not isinstance(alpha, int | float) or not math.isfinite(alpha))
    ]:
        raise RunError(f"{place} has a scale that is no number: alpha {wrong[0]!r}", "copy it again")
    return config


def _of_module(pattern: Mapping[str, float] | None, module: str, default: float | None) -> float | None:
    """The value for a module, by the rule of peft: the first key, a regular expression, that ends its path."""
    for key, value in (pattern or {}).items():
        if re.fullmatch(_ending(key), module):
            return value
    return default


def _ending(key: str) -> str:
    return rf"(.*\.)?({key})"


def _is_expression(key: str) -> bool:
    try:
        re.compile(_ending(key))
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def find_lora(path: str, option: str = OPTION) -> Path:
    """The file of the LoRA at ``path``, fetched if it is on the Hub; arguments and errors as of :func:`read_lora`."""
    place = Path(path)
    if place.is_file():
        return place
    if place.is_dir():
        return place / _only([file.name for file in sorted(place.glob(f"*{SUFFIX}"))], path, option)
    try:
        return _on_hub(path, option)
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        message = known.message if path in known.message else f"{path}: {known.message}"
        raise type(known)(message, known.hint) from error


def _on_hub(path: str, option: str) -> Path:
    import huggingface_hub

    place = hub_id(path)
    assert place is not None, "a path that is not here names a repository"
    repository, inside = place
    if inside.endswith(SUFFIX):
        return locate(path, option=option)
    try:
        files = huggingface_hub.HfApi().list_repo_files(repository)
    except Exception as error:
        if not is_unreachable(error):
            raise
        folder = locate(path, only=(f"*{SUFFIX}",), option=option)
        return folder / _only([file.name for file in sorted(folder.glob(f"*{SUFFIX}"))], path, option)
    within = f"{inside}/" if inside else ""
    names = [file.removeprefix(within) for file in files if file.startswith(within)]
    beside = [name for name in names if name.endswith(SUFFIX) and "/" not in name]
    return locate(f"{path.rstrip('/')}/{_only(beside, path, option)}", option=option)


def _only(names: Sequence[str], path: str, option: str) -> str:
    if USUAL_NAME in names or len(names) == 1:
        return USUAL_NAME if USUAL_NAME in names else names[0]
    if not names:
        raise UsageError(f"{path} holds no {SUFFIX} file", f"{NAME_ONE}: {option}")
    raise UsageError(
        f"{path} holds {len(names)} {SUFFIX} files",
        f"name one of them: {option.partition(' ')[0]} {path.rstrip('/')}/{sorted(names)[0]}",
    )
