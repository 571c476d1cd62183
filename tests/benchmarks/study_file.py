"""The file of a study: what its students have in common, and an entry for each claim or idea."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import write_json

Entry = dict[str, Any]


@dataclass(frozen=True)
class StudyFile:
    """Where entries are written, after each one anew.

    path: None: nowhere. head: what is common to all. entries: the key of their list. order: what ``name`` gives of
    every entry there can be, as they stand in the file. kept: those of an earlier run.
    """

    path: Path | None
    head: Entry
    entries: str
    name: Callable[[Entry], str]
    order: Sequence[str]
    kept: Sequence[Entry] = ()

    def write(self, found: Sequence[Entry]) -> None:
        if self.path is None:
            return
        order = list(dict.fromkeys(self.order))
        entries = sorted([*self.kept, *found], key=lambda entry: order.index(self.name(entry)))
        write_json(self.path, {**self.head, self.entries: entries})

    def keeping(self, parser: argparse.ArgumentParser, asked: Sequence[str]) -> StudyFile:
        """This with the file's entries whose names are not among ``asked``.

        The parser refuses no file, one of another study, machine or version, and entries no table has.
        """
        if self.path is None or not self.path.is_file():
            parser.error("--keep needs --json with a file that is there")
        there = json.loads(self.path.read_text(encoding="utf-8"))
        entries = there.pop(self.entries, None)
        if entries is None or (others := _differing(there, self.head)):
            told = f"has no {self.entries}" if entries is None else f"differs in {', '.join(others)}"
            parser.error(f"--keep: {self.path} {told}; leave out --keep to write it anew")
        if unknown := [self.name(entry) for entry in entries if self.name(entry) not in self.order]:
            parser.error(f"--keep: {self.path} has what there is no longer: {unknown[0]}")
        kept = tuple(entry for entry in entries if self.name(entry) not in asked)
        return StudyFile(self.path, self.head, self.entries, self.name, self.order, kept)


def _differing(there: Entry, here: Entry) -> list[str]:
    """The keys of two heads that differ; that of the day may."""
    told = json.loads(json.dumps(here))
    return [key for key in {**there, **told} if key != "date" and there.get(key) != told.get(key)]


def add_keep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep", action="store_true", help="what the file of --json has of others than --only stays in it"
    )
