"""The hash and the size of every picture: read in threads, and only once as long as the file stays as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..system.devices import usable_cores
from ..system.files import cache_key, replacing_file
from .picture import Picture
from .pictures import Unreadable, upright_size

# Reading and hashing leave Python's lock to others; more threads than this only make a disk seek.
MOST_THREADS = 16
DIGEST, PICTURES = "sha256", "pictures"


@dataclass(frozen=True)
class PictureFacts:
    """The hash of a picture's bytes, and its width and height as a person sees it."""

    sha256: str
    size: tuple[int, int]


def look_at(pictures: Sequence[Picture], folder: Path) -> list[PictureFacts | Unreadable | OSError]:
    """Hash and size of each picture, in their order, or the error of reading it.

    A picture whose file has the path, size and time of change that ``folder`` has on record is not read again.
    """
    stamps = [_stamp(picture) for picture in pictures]
    places = sorted({str(picture.file.resolve().parent) for picture in pictures if picture.file is not None})
    record = folder / f"{cache_key(places=places)}.json"
    known = _read(record)

    def look(picture: Picture, stamp: str | None) -> PictureFacts | Unreadable | OSError:
        if stamp in known:
            return known[stamp]
        try:
            data = picture.read()
            return PictureFacts(hashlib.sha256(data).hexdigest(), upright_size(data))
        except (OSError, Unreadable) as error:
            return error

    with ThreadPoolExecutor(min(MOST_THREADS, 4 * usable_cores())) as pool:
        found = list(pool.map(look, pictures, stamps))
    now = {stamp: seen for stamp, seen in zip(stamps, found) if stamp is not None and isinstance(seen, PictureFacts)}
    if now != known:
        with replacing_file(record) as aside:
            noted = {stamp: [seen.sha256, *seen.size] for stamp, seen in now.items()}
            aside.write_text(json.dumps({DIGEST: _digest(noted), PICTURES: noted}))
    return found


def _stamp(picture: Picture) -> str | None:
    """A value that changes when the file does; None where the picture has no file of its own."""
    if picture.file is None:
        return None
    try:
        state = picture.file.stat()
    except OSError:
        return None
    return f"{picture.file.resolve()}:{picture.offset}:{state.st_size}:{state.st_mtime_ns}"


def _read(record: Path) -> dict[str, PictureFacts]:
    """The record, or an empty one unless it is as we wrote it: it can be made again.

    With one wrong byte a picture would be another, in another bucket.
    """
    try:
        content = json.loads(record.read_text())
        pictures = content[PICTURES]
        if content[DIGEST] != _digest(pictures):
            return {}
        return {
            stamp: PictureFacts(str(sha256), (int(width), int(height)))
            for stamp, (sha256, width, height) in pictures.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _digest(pictures: Mapping[str, Sequence[object]]) -> str:
    return hashlib.sha256(json.dumps(pictures, sort_keys=True).encode()).hexdigest()
