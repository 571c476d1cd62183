"""Folders of pictures, read in batches; what was converted or could not be read is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.picture_folders import files_below
from ..data.pictures import SIXTEEN_BITS, SUFFIXES, Unreadable, as_stored, mode_of, opened_picture
from ..errors import UsageError
from ..reports.recipes import is_grid, recipe_in
from ..system.devices import usable_cores
from ..wording import few
from .early import check_folder

if TYPE_CHECKING:
    from ..console import Console

# Suffixes that clean-fid counts; with others the same folder would have another FID.
COUNTED = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Modes whose conversion to 8-bit grey is exact, and all that are grey.
GREY = ("1", "L")
ALL_GREY = (*GREY, SIXTEEN_BITS)
MOST_SHOWN = 5
# Bound of a batch: 0.4 GB in float32, while a second one is being decoded. 16 pictures of 1024 x 1024 stay below.
MOST_PIXELS_AT_ONCE = 1 << 25
DECODERS = min(8, usable_cores())


class Listener(Protocol):
    """An object that is told what was left out."""

    def warn(self, text: str) -> None: ...


@dataclass(frozen=True)
class Entry:
    """A picture that has not been decoded: its file, and from the header its size (width, height) and its mode."""

    path: Path
    size: tuple[int, int]
    mode: str


@dataclass(frozen=True)
class ImageFolder:
    """Pictures of a folder, in the order of their names.

    ``unreadable``: names of files that are no pictures, and why. ``grids``: pictures of all others, as `piflow sample`
    makes them. ``uncounted``: pictures of kinds that a FID does not count. ``channels`` is 1 where all pictures are
    grey, else 3: grey ones among them are repeated, and all other modes are converted to RGB.
    """

    path: Path
    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]
    grids: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()

    @cached_property
    def channels(self) -> int:
        return 1 if all(entry.mode in ALL_GREY for entry in self.entries) else 3

    def describe(self) -> list[str]:
        """Lines for a person to know before trusting a number: several sizes, converted modes, unreadable files."""
        lines = []
        sizes = Counter(f"{width}x{height}" for width, height in (entry.size for entry in self.entries))
        if len(sizes) > 1:
            lines.append(f"{self.path}: pictures of {len(sizes)} sizes ({_counts(sizes)}), each resized by itself")
        modes = Counter(entry.mode for entry in self.entries)
        exact = GREY if self.channels == 1 else ("RGB",)
        if set(modes) - set(exact):
            wanted = "grey" if self.channels == 1 else "RGB"
            lines.append(
                f"{self.path}: converted to 8-bit {wanted}:"
                f" {_counts(Counter({m: n for m, n in modes.items() if m not in exact}))}"
            )
        if self.unreadable:
            lines.append(
                f"{self.path}: {len(self.unreadable)} files left out, unreadable: {few(self.unreadable, MOST_SHOWN)}"
            )
        if self.uncounted:
            lines.append(
                f"{self.path}: {len(self.uncounted)} files left out, of kinds that clean-fid does not count:"
                f" {few(self.uncounted, MOST_SHOWN)}"
            )
        return lines

    def batches(self, size: int, console: Listener | None = None) -> Iterator[Tensor]:
        """Pictures (B, 1 or 3, H, W), float32 in [-1, 1], in batches of one picture size with B up to ``size``.

        Large pictures come in smaller batches.

        8-bit values survive the scaling. A batch is decoded while the one before it is being used. Pictures that turn
        out to be cut short are left out, and ``console`` is told their names.
        """
        damaged: list[str] = []
        with ThreadPoolExecutor(DECODERS) as pool:
            ahead: list[Future[np.ndarray | str]] = []
            for part in [*self._parts(size), []]:
                submitted = [pool.submit(self._decoded, entry) for entry in part]
                pixels = [future.result() for future in ahead]
                damaged += [picture for picture in pixels if isinstance(picture, str)]
                if whole := [picture for picture in pixels if not isinstance(picture, str)]:
                    yield _stacked(whole)
                ahead = submitted
        if damaged and console is not None:
            console.warn(f"{self.path}: {len(damaged)} files left out, damaged: {few(damaged, MOST_SHOWN)}")

    def _decoded(self, entry: Entry) -> np.ndarray | str:
        """Pixels (H, W) or (H, W, 3) uint8, or the name of a picture that is damaged, and why."""
        try:
            return as_stored(entry.path, self.channels == 1)
        except Unreadable as error:
            return f"{entry.path.relative_to(self.path)} ({error})"

    def _parts(self, size: int) -> Iterator[Sequence[Entry]]:
        by_size: dict[tuple[int, int], list[Entry]] = {}
        for entry in self.entries:
            by_size.setdefault(entry.size, []).append(entry)
        for (width, height), entries in by_size.items():
            step = max(1, min(size, MOST_PIXELS_AT_ONCE // (width * height)))
            for start in range(0, len(entries), step):
                yield entries[start : start + step]


def open_folder(
    path: Path, count: int | None = None, console: Console | None = None, *, most: int | None = None
) -> ImageFolder:
    """The pictures below ``path``, or the first of them by name; headers are read, pixels are not.

    Of those it takes ``count``, or up to ``most``.

    Those are the files that clean-fid counts: suffixes as in COUNTED, sub-folders too, through symbolic links, names
    that begin with a dot left out; less the grids of `piflow sample`. ``console`` is told of several sizes, of
    converted modes and of pictures that are left out.

    Raises:
        UsageError: no such folder, fewer than two readable pictures in it, or fewer than ``count``.
    """
    check_folder(path)
    files = files_below(path)
    taken = most if count is None else count
    entries, unreadable, grids = _looked_at(path, [file for file in files if file.suffix.lower() in COUNTED], taken)
    _refuse_too_few(path, entries, unreadable, count)
    uncounted = [
        str(file.relative_to(path))
        for file in files
        if file.suffix.lower() in SUFFIXES and file.suffix.lower() not in COUNTED
    ]
    folder = ImageFolder(path, tuple(entries), tuple(unreadable), tuple(grids), tuple(uncounted))
    if console is not None:
        for line in folder.describe():
            console.warn(line)
        if grids:
            console.say(f"{path}: left out, a grid of pictures that `piflow sample` made: {few(grids, MOST_SHOWN)}")
    return folder


def _looked_at(path: Path, files: Sequence[Path], count: int | None) -> tuple[list[Entry], list[str], list[str]]:
    """The first ``count`` pictures among ``files`` by their headers, names of unreadable ones, and names of grids."""
    entries: list[Entry] = []
    unreadable, grids = [], []
    for file in files:
        if len(entries) == count:
            break
        name = str(file.relative_to(path))
        try:
            with opened_picture(file) as picture:
                if is_grid(recipe_in(picture)):
                    grids.append(name)
                else:
                    entries.append(Entry(file, picture.size, mode_of(picture)))
        except Unreadable as error:
            unreadable.append(f"{name} ({error})")
    return entries, unreadable, grids


def _refuse_too_few(path: Path, entries: Sequence[Entry], unreadable: Sequence[str], count: int | None) -> None:
    also = f"; unreadable: {few(unreadable, MOST_SHOWN)}" if unreadable else ""
    if not entries:
        raise UsageError(f"{path} holds no readable pictures ({', '.join(COUNTED)}){also}", "name a folder of pictures")
    if count is not None and 1 < len(entries) < count:
        raise UsageError(
            f"{path} holds {len(entries)} readable pictures, and {count} are wanted{also}",
            f"take --num-images {len(entries)}",
        )
    if len(entries) < 2:
        raise UsageError(
            f"{path} holds one picture, which has no covariance{also}", "give at least two, better thousands"
        )


def _stacked(pictures: Sequence[np.ndarray]) -> Tensor:
    pixels = np.stack(pictures)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    # In place, since every copy of large pictures counts.
    return torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(127.5).sub_(1)


def _counts(counts: Counter[str]) -> str:
    shown = [f"{number} {name}" for name, number in counts.most_common(MOST_SHOWN)]
    return ", ".join(shown + (["..."] if len(counts) > MOST_SHOWN else []))
