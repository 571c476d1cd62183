"""What this machine has beside what a run takes: memory, disk, and one line that says whether they suffice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from .memory import Bytes

# Of the memory that is free; the rest is for cuBLAS and fragments.
USABLE = 0.9
# Python, torch and diffusers themselves, where they share their memory with a run.
LIBRARIES = 1_000_000_000  # bytes
NO_ROOM = "does not fit"
GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """The memory of a device: its name, and bytes that are ``free`` now."""

    name: str
    free: Bytes
    cuda: bool

    def holds(self, peak: int) -> bool:
        """Whether a run whose tensors take ``peak`` bytes has room."""
        return peak <= USABLE * self.free if self.cuda else peak + LIBRARIES <= self.free


@dataclass(frozen=True)
class Need:
    """``size`` bytes that are to be written below ``folder``, and what they are; ``mend``: what makes them fewer."""

    what: str
    folder: Path
    size: int
    mend: str


@dataclass(frozen=True)
class Disk:
    """The ``needs`` of a run on one file system, and the bytes that are ``free`` on it."""

    needs: tuple[Need, ...]
    free: Bytes

    @property
    def size(self) -> Bytes:
        return Bytes(sum(need.size for need in self.needs))


def memory_here(device: torch.device) -> Memory:
    """The memory of ``device`` as it is now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Memory(torch.cuda.get_device_name(device), Bytes(free), cuda=True)
    free = min(psutil.virtual_memory().available, _of_group())
    return Memory("no GPU, the memory of this machine", Bytes(free), cuda=False)


def _of_group() -> int:
    """The bytes that a container or job may take besides what it has; without a limit as many as can be addressed."""
    try:
        most, taken = ((GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(0, int(most) - int(taken))
    except (OSError, ValueError):
        # "max", or a system without such groups.
        return 1 << 62


def disks_here(needs: Iterable[Need]) -> list[Disk]:
    """The file systems of ``needs``, in their order."""
    found: dict[int, list[Need]] = {}
    for need in needs:
        found.setdefault(os.stat(_there(need.folder)).st_dev, []).append(need)
    return [Disk(tuple(group), Bytes(shutil.disk_usage(_there(group[0].folder)).free)) for group in found.values()]


def _there(folder: Path) -> Path:
    """The nearest folder above that exists already."""
    whole = folder.absolute()
    return next(place for place in (whole, *whole.parents) if place.is_dir())


def verdict(peak: int, memory: Memory, disks: Sequence[Disk], mend: str) -> str:
    """Whether a run fits this machine, in one line; ``mend``: what to type where its memory does not."""
    short = [disk for disk in disks if disk.size > disk.free]
    if memory.holds(peak) and not short:
        needed = ", ".join(f"{disk.size} of {disk.free} of disk" for disk in disks)
        return f"fits: {Bytes(peak)} of {memory.free} ({memory.name}), {needed}"
    said = [] if memory.holds(peak) else [f"{Bytes(peak)} are needed, {memory.free} are free ({memory.name}): {mend}"]
    for disk in short:
        largest = max(disk.needs, key=lambda need: need.size)
        said.append(f"{disk.size} of disk are needed, most for {largest.what}, {disk.free} are free: {largest.mend}")
    return f"{NO_ROOM}: {'; '.join(said)}"
