"""A picture with its caption, before anything of it has been read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .pictures import Unreadable, open_picture
from .rows import TEXT_OPTION, is_text


@dataclass(frozen=True)
class TextKind:
    """The kind of text that comes with pictures: captions, or labels.

    ``column`` of metadata files and of the objects in ``.json`` members, and the ``option`` that names another;
    ``members``: suffixes of what has it in shards and beside pictures, the first that is there counts; ``kind`` names
    it in messages. ``text`` makes a caption of a value, None where it is none of that kind.
    """

    column: str
    option: str
    members: tuple[str, ...]
    kind: str
    text: Callable[[object], str | None]


def captions(column: str) -> TextKind:
    """Captions, which are texts."""
    return TextKind(column, TEXT_OPTION, (".txt", ".json"), "text", lambda value: value if is_text(value) else None)


def _label(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) and value.strip().isdecimal() and value.isascii() else None


LABELS = TextKind("label", "", (".cls", ".json"), "whole number", _label)


@dataclass(frozen=True)
class Picture:
    """A picture that has not been read yet.

    ``name``: for messages. ``caption``: None where there is none; a label is its digits. ``read``: gives its bytes, or
    raises Unreadable where they are no picture. ``file``: where its bytes begin at ``offset``; None where that is
    unknown.
    """

    name: str
    caption: str | None
    read: Callable[[], bytes]
    file: Path | None = None
    offset: int = 0

    def open(self) -> Image.Image:
        """The picture upright and in RGB; raises Unreadable and OSError."""
        return open_picture(self.read())


def unused(name: str, why: str) -> Picture:
    """A stand-in for something that was found and cannot be used, which is counted and named like a damaged picture."""

    def read() -> bytes:
        raise Unreadable(why)

    return Picture(name, None, read)


def caption_of(text: object) -> str | None:
    """A caption, or None where there is nothing in it."""
    return text.strip() if isinstance(text, str) and text.strip() else None
