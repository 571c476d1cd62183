"""Whether a run fits this machine: what it takes of memory and disk, beside what there is."""

from __future__ import annotations

from pathlib import Path

import torch

from ...data.sources import LocalSamples
from ...errors import UsageError
from ...system.files import cache_folder
from ...teachers.folders import outline_folder
from ...teachers.text_to_image import TextToImageFamily
from ...weights.locate import hub_id
from ..settings import BatchPlan
from .lighter import lighter
from .memory import NARROW, WIDE, Bytes, Estimate
from .outline import Outline, disk_of
from .room import Memory, Need, disks_here, memory_here, verdict

CHECKPOINTS = "--output DIR names another place, or --set output.keep_checkpoints=1 keeps fewer"
TEXTS = "--cache DIR names another place, or --limit N encodes fewer"
DOWNLOAD = "HF_HOME=DIR names another place"


def fit(
    outline: Outline,
    estimate: Estimate | UsageError,
    batches: BatchPlan,
    device: torch.device,
    folder: Path,
    local: LocalSamples | None,
) -> tuple[dict[str, object], str]:
    """The figures of this machine beside those of the run, and a line that says whether it fits, or what to type."""
    memory, disks = memory_here(device), disks_here(_needs(outline, folder, local))
    figures = {"device": memory.name, "memory free": memory.free}
    for disk in disks:
        figures[f"disk of {disk.needs[0].folder}"] = {"needed": disk.size, "free": disk.free}
    if isinstance(estimate, UsageError):
        return figures, f"unknown: {estimate.message}; {estimate.hint}"
    peak, mend = estimate.peak, ""
    encoders = outline.text_encoders
    if not memory.holds(peak):
        mend = lighter(outline, batches.processes, device, memory)
    elif encoders is not None and not memory.holds(encoders):
        peak, mend = Bytes(encoders), _lighter_texts(outline, memory)
    return figures, verdict(peak, memory, disks, mend)


def _lighter_texts(outline: Outline, memory: Memory) -> str:
    """What to type where the text encoders, which go before training, have no room."""
    if memory.cuda and not outline.preset.data.offload_text_encoder:
        return "type --offload-text-encoder"
    return "encode the texts on another machine, and name their cache: --cache DIR"


def _needs(outline: Outline, folder: Path, local: LocalSamples | None) -> list[Need]:
    """What a run writes: checkpoints, of which one more is there while it is saved, and its student; texts; weights."""
    disk = disk_of(outline, local)
    saved = disk["checkpoints kept"] + disk["checkpoint"] + 2 * disk["student"]
    needs = [Need("checkpoints", folder, saved, CHECKPOINTS)]
    cache = disk.get("cache, in all, at most")
    if cache is not None:
        named = outline.preset.data.cache
        needs.append(
            Need("encoded texts and pictures", cache_folder(None if named is None else Path(named)), cache, TEXTS)
        )
    fetched = _to_fetch(outline)
    if fetched is not None:
        from huggingface_hub.constants import HF_HUB_CACHE

        needs.append(Need("the teacher's weights", Path(HF_HUB_CACHE), fetched, DOWNLOAD))
    return needs


def _to_fetch(outline: Outline) -> Bytes | None:
    """Bytes of the teacher and its text encoders that are not in the Hub's cache yet; None for a local one.

    Text-to-image bases are published in 16 bits, others in 32.
    """
    teacher, family = outline.preset.teacher, outline.student.family
    found = hub_id(teacher.base)
    if found is None:
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    size = (NARROW if isinstance(family, TextToImageFamily) else WIDE) * outline.teacher
    if isinstance(family, TextToImageFamily):
        encoders = family.text_encoder_bytes(outline_folder(family, teacher), offload=False)
        size += 0 if encoders is None else encoders
    blobs = Path(HF_HUB_CACHE) / f"models--{found[0].replace('/', '--')}" / "blobs"
    there = sum(path.stat().st_size for path in blobs.iterdir()) if blobs.is_dir() else 0
    return Bytes(max(0, size - there))
