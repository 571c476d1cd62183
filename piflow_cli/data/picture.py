"""A picture with its caption before anything of it has been read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .pictures import Unreadable, open_picture
from .rows import TEXT_OPTION, is_text


@dataclass(frozen=True)
class Told:
    """What is told of pictures: captions, or labels.

    ``column`` of metadata files and of the objects in ``.json`` members, and the ``option`` that names another;
    ``members``: suffixes of what has it in shards and beside pictures, the first that is there counts; ``kind`` names
    it in messages. ``text`` makes a caption of a value, None where it is none of that kind.
    """

    column: str
    option: str
    members: tuple[str, ...]
    kind: str
    text: Callable[[object], str | None]


def captions(column: str) -> Told:
    """Texts."""
    return Told(column, TEXT_OPTION, (".txt", ".json"), "text", lambda value: value if is_text(value) else None)


def _label(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) and value.strip().isdecimal() and value.isascii() else None


LABELS = Told("label", "", (".cls", ".json"), "whole number", _label)


@dataclass(frozen=True)
class Picture:
    """A picture that has not been read yet. ``name`` is for messages; ``caption``
    None: there is none; a label is its digits.

    ``read``: its bytes; raises Unreadable where something was found that is no picture. ``file``: where its bytes begin
    at ``offset``; None where that is not for us to know.
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
    """In the place of a picture: what was found and cannot be used, so that it is
    counted and named like one that is damaged."""

    def read() -> bytes:
        raise Unreadable(why)

    return Picture(name, None, read)


def caption_of(text: object) -> str | None:
    """A caption, or None where there is nothing in it."""
    return text.strip() if isinstance(text, str) and text.strip() else None
