"""A disk under a program that is killed, or that loses its power, at any call that its files depend on.

A file's content survives a power cut as it was at its last fsync, and a name as it was at the last fsync of its folder.
Real file systems keep more than that, and each its own choice of it, so two cuts stand for all: ``nothing more`` keeps
what was synchronised alone, ``names first`` keeps every change of a name at once and of contents only what was
synchronised (what journalling file systems leave when a rename overtakes the data).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from piflow_cli.system import files

KINDS = ("killed", "nothing more", "names first")
CALLS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


class Disk:
    """Watches what happens under ``root`` and knows, before each call, what a kill or a power cut would leave of it."""

    def __init__(self, root: Path, states: Path) -> None:
        self.root = root
        self.states = states
        self.calls: list[str] = []
        # By inode, which renaming leaves alone: contents of files, names in folders.
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}
        for folder, _, inside in os.walk(root):
            self._sync_folder(Path(folder))
            for name in inside:
                self._sync_file(Path(folder, name))

    def _sync_file(self, path: Path) -> None:
        self.contents[path.stat().st_ino] = path.read_bytes()

    def _sync_folder(self, path: Path) -> None:
        entries = list(os.scandir(path))
        self.names[path.stat().st_ino] = {
            entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries
        }

    def synchronised(self, number: int) -> None:
        """fsync of an open file or folder."""
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        if path == self.root or self.root in path.parents:
            self._sync_folder(path) if path.is_dir() else self._sync_file(path)

    def before(self, call: str, *given: object) -> None:
        """Keep what a kill and what power cuts would leave if ``call`` never came."""
        place = f"{len(self.calls):03d}"
        names = [Path(str(one)).name for one in given]
        self.calls.append(" ".join([call, *names]))
        shutil.copytree(self.root, self.states / place / "killed", symlinks=True)
        for kind in KINDS[1:]:
            self._make(self.root.stat().st_ino, self.root, self.states / place / kind, kind == "names first")

    def _make(self, inode: int, live: Path | None, target: Path, names_first: bool) -> None:
        target.mkdir(parents=True)
        if names_first and live is not None:
            entries = {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in os.scandir(live)}
        else:
            entries = self.names.get(inode, {})
        for name, (inside, folder) in entries.items():
            if folder:
                self._make(inside, None if live is None else live / name, target / name, names_first)
            else:
                (target / name).write_bytes(self.contents.get(inside, b""))

    def all_states(self) -> list[tuple[str, str, Path]]:
        """Every state: the call that never came, what happened, and the folder that was left."""
        return [
            (call, kind, self.states / f"{number:03d}" / kind)
            for number, call in enumerate(self.calls)
            for kind in KINDS
        ]


@contextmanager
def watched(root: Path, states: Path) -> Iterator[Disk]:
    """Watch what this process does under ``root``; states are kept under ``states``, elsewhere."""
    disk = Disk(root, states)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _watching(disk, name, getattr(os, name)))
        exchange = files.exchange
        # A test may have put one in its place that exchanges nothing.
        if exchange.__module__.startswith(files.__package__):
            patch.setattr(
                files, "exchange", lambda one, other: disk.before("exchange", one, other) or exchange(one, other)
            )
        yield disk


def _watching(disk: Disk, name: str, call):
    inside = str(disk.root)

    def watching(*given, **options):
        if name == "fsync":
            path = os.readlink(f"/proc/self/fd/{given[0]}")
            if path.startswith(inside):
                disk.before(name, path)
            disk.synchronised(*given)
            return None
        # Removing a tree names what is in it relative to an open folder; what is half removed has no name of its own
        # left.
        if str(given[0]).startswith(inside) and options.get("dir_fd") is None:
            disk.before(name, *given)
        return call(*given, **options)

    return watching
