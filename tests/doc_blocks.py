"""The blocks of code in README, CONTRIBUTING and docs, in the order in which a reader meets them.

A fence may have a title. `title="Needs a GPU and weights"` and its like mark commands that a test reads by their
programs' own parsers and does not run. A title that is the name of a file says what that file holds. All else is run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "pages"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
# Why a command is not run. The help's examples are parsed; the pages show the same ones run.
MARKS = (
    "Needs weights",
    "Needs the Hub",
    "Needs your own files",
    "Needs a network",
    "Writes into the repository",
    "Needs a GPU and weights",
    "Needs several GPUs and weights",
    "Takes minutes",
    "Changes your home",
    "As in the help",
)
FENCE = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
FILE = re.compile(r"[\w./-]+\.\w+")


@dataclass(frozen=True)
class Block:
    """A fence: the page and line where it stands, its language, its title ("" where it has none) and what is in it."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it shows."""
        return self.title if FILE.fullmatch(self.title) else None

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a block of bash, each as its words."""
        lines = [shlex.split(line, comments=True) for line in self.text.splitlines()]
        return [command for words in lines for command in _joined(words) if command]


def _joined(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in words:
        if word == "&&":
            yield command
            command = []
        else:
            command.append(word)
    yield command


def read_order() -> list[Path]:
    """README and CONTRIBUTING, then the pages as the site lists them."""

    def names(entry: object) -> Iterator[str]:
        for value in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else []:
            yield from [value] if isinstance(value, str) else names(value)

    site = yaml.safe_load((ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8"))
    return [ROOT / "README.md", CONTRIBUTING, *(PAGES / name for name in names(site["nav"]))]


def blocks() -> list[Block]:
    """Every fence that names a language."""
    found = []
    for path in read_order():
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(path.name, line, match["language"], match["title"] or "", match["text"]))
    return found
