"""LoRAs that are fused into a base before it is distilled: found, fused, and kept beside the student.

The weight of a layer becomes W + scale * alpha / rank * B A, in float32 and from the values of the base's own files, so
that it is rounded once, to the dtype that the base is held in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import RunError, UsageError
from ..presets.choices import BITSANDBYTES
from ..presets.lora_texts import split_lora
from ..system.files import files_digest
from ..teachers.base import Network, TeacherFamily
from ..teachers.loading import weights_in
from ..teachers.text_to_image import TextToImageFamily
from ..weights.locate import network_folder
from ..weights.stored import StoredWeights
from .fused_loras import KEPT, FusedLora, told_loras
from .lora_files import PEFT_CONFIG, PEFT_WEIGHTS, TEACHER_OPTION, check_files, find_lora, read_lora
from .loras import Factors, factors_of

# Files that were found whole, by their size and time: commands find a student before they load it.
_found_whole: set[tuple] = set()


@dataclass(frozen=True)
class TeacherLora:
    """A LoRA's file on this machine, and what the facts of a student say of it."""

    file: Path
    told: FusedLora


def teacher_loras(texts: Sequence[str]) -> tuple[TeacherLora, ...]:
    """The LoRAs that a preset names, those on the Hub fetched.

    Raises UsageError where there is none or more than one at a place, RunError where the Hub cannot be reached.
    """
    named = [split_lora(text) for text in texts]
    check_files(named, TEACHER_OPTION)
    found = [(find_lora(path, TEACHER_OPTION), scale) for path, scale in named]
    return tuple(TeacherLora(file, FusedLora(file.name, scale, _digest(file))) for file, scale in found)


def kept_loras(folder: Path, loras: Sequence[FusedLora]) -> tuple[TeacherLora, ...]:
    """The copies of ``loras`` beside the student in ``folder``; raises RunError where one is missing or was changed."""
    kept = tuple(TeacherLora(_place(folder, number, lora), lora) for number, lora in enumerate(loras, 1))
    for lora in kept:
        if not lora.file.is_file():
            raise RunError(
                f"{lora.file} is missing: the LoRA is fused into the base below the student",
                "copy the whole folder of the student again",
            )
        key = tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in _files(lora.file))
        if key not in _found_whole and _digest(lora.file) != lora.told.sha256:
            raise RunError(f"{lora.file} is not the LoRA that the student was distilled with", "copy it again")
        _found_whole.add(key)
    return kept


def keep_loras(loras: Sequence[TeacherLora], folder: Path, earlier: Path) -> None:
    """Copy ``loras`` into the ``folder`` of a student, those whose file is gone or was changed from ``earlier``.

    Raises RunError where neither is the LoRA that was fused.
    """
    for number, lora in enumerate(loras, 1):
        target, told = _place(folder, number, lora.told), lora.told
        target.parent.mkdir(parents=True)
        sources = [file for file in (lora.file, _place(earlier, number, told)) if file.is_file()]
        whole = next((file for file in sources if _digest(file) == told.sha256), None)
        if whole is None:
            raise RunError(
                f"{lora.file} is gone, or no longer the LoRA that was fused into the base",
                "put it back as it was, then run the same command again",
            )
        for file in _files(whole):
            shutil.copyfile(file, target.with_name(file.name))


def check_unquantised(loras: Sequence[FusedLora], precision: str | None) -> None:
    """Raise UsageError for a base with ``loras`` in a precision that its files are quantised to while they are read."""
    if loras and precision in BITSANDBYTES:
        raise UsageError(
            f"LoRAs are fused into the base ({told_loras(loras)}), which cannot be done in {precision}",
            "choose --base-precision fp8 or bf16",
        )


def check_fit(family: TeacherFamily, folder: Path, texts: Sequence[str]) -> None:
    """Raise the errors of :func:`fuse` for those LoRAs of a preset that are on this machine.

    ``folder``: for ``family.outline``; weights are not read.
    """
    if not texts:
        return
    model = family.outline(folder)
    named = [split_lora(text) for text in texts]
    check_files(named, TEACHER_OPTION)
    for path, _ in named:
        if Path(path).exists():
            _factors(model, family, path)


@torch.no_grad()
def fuse(
    model: Network,
    family: TeacherFamily,
    folder: Path,
    loras: Sequence[TeacherLora],
    warn: Callable[[str], None] = lambda line: None,
) -> None:
    """Fuse ``loras``, one after the other, into ``model``, which was loaded from ``folder`` and has no adapters yet.

    What is for the text encoders is left out, which ``warn`` is told.

    Raises:
        UsageError: a LoRA is for another model, or a tensor of it has no use here.
        RunError: it is damaged, or what comes of it is beyond the range of the base's dtype.
    """
    if not loras:
        return
    by_module: dict[str, list[tuple[Factors, float]]] = {}
    for lora in loras:
        for module, factors in _factors(model, family, str(lora.file), warn).items():
            by_module.setdefault(module, []).append((factors, lora.told.scale))
    stored = StoredWeights(weights_in(network_folder(folder)))
    for module, parts in by_module.items():
        value = stored.read(f"{module}.weight").float()
        for factors, scale in parts:
            value = fused(value, factors, scale)
        weight = model.get_submodule(module).weight
        weight.copy_(value)
        if not weight.isfinite().all():
            names = told_loras([lora.told for lora in loras])
            raise RunError(f"{module} has values that are not finite with {names} in it", "give a smaller scale")


def fused(weight: Tensor, factors: Factors, scale: float) -> Tensor:
    """``weight`` (out, in), or (out, in, height, width), float32 with a LoRA at ``scale`` in it, float32.

    A DoRA gives every row its own magnitude afterwards, as peft merges it (arXiv 2402.09353).
    """
    product = factors.up.float().flatten(1) @ factors.down.float().flatten(1)
    value = weight.flatten(1) + scale * factors.alpha / factors.rank * product
    if factors.magnitude is not None:
        value = factors.magnitude.float().reshape(-1, 1) * value / torch.linalg.norm(value, dim=1, keepdim=True)
    return value.reshape(weight.shape)


def _factors(
    model: Network, family: TeacherFamily, path: str, warn: Callable[[str], None] = lambda line: None
) -> dict[str, Factors]:
    assert isinstance(family, TextToImageFamily), "presets refuse LoRAs on teachers of classes"
    return factors_of(model, family, read_lora(path, TEACHER_OPTION), warn, TEACHER_OPTION)


def _place(folder: Path, number: int, lora: FusedLora) -> Path:
    """Each has a folder of its own: many tools give all their files one name."""
    return folder / KEPT / str(number) / lora.name


def _files(file: Path) -> list[Path]:
    """The file of a LoRA, and the config that peft writes beside it, which has its scales."""
    config = file.with_name(PEFT_CONFIG)
    return [file, config] if file.name == PEFT_WEIGHTS and config.is_file() else [file]


def _digest(file: Path) -> str:
    return files_digest(_files(file))
