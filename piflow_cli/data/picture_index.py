"""The hash and the size of every picture: read in threads, and only once as long as the file stays as it is."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os.path import dirname, realpath

import torch

from ..system.devices import usable_cores
from ..system.files import cache_key
from ..weights.cache import Cache, as_bytes, as_text
from .picture import Picture
from .pictures import Unreadable
from .sample_kinds import OF_PICTURES, OF_VIDEOS, SampleKind

STAMPS, DIGESTS, SIZES, SECONDS = "stamps", "sha256", "sizes", "seconds"
LOGGER = logging.getLogger("piflow.data")


@dataclass(frozen=True)
class PictureFacts:
    """The hash of a picture's bytes, and its width and height as a person sees it; of a video its seconds too."""

    sha256: str
    size: tuple[int, int]
    seconds: float | None = None


def look_at(
    pictures: Sequence[Picture], records: Cache, kind: SampleKind = OF_PICTURES
) -> list[PictureFacts | Unreadable | OSError]:
    """Hash and size of each picture or video, in their order, or the error of reading it.

    A picture whose file has the path, size and time of change that ``records`` has is not read again.
    """
    stamps = [_stamp(picture) for picture in pictures]
    # resolve() refuses a link to itself, which is only one more file that cannot be read.
    places = sorted({dirname(realpath(picture.file)) for picture in pictures if picture.file is not None})
    # A GIF may have been looked at as a picture.
    record = cache_key(places=places, **({} if kind is OF_PICTURES else {"of": kind.names}))
    known = _read(records, record)

    def look(picture: Picture, stamp: str | None) -> PictureFacts | Unreadable | OSError:
        if stamp in known:
            return known[stamp]
        try:
            data = picture.read()
            return PictureFacts(hashlib.sha256(data).hexdigest(), *kind.measure(data))
        except (OSError, Unreadable) as error:
            return error

    with ThreadPoolExecutor(min(kind.readers, 4 * usable_cores())) as pool:
        found = list(pool.map(look, pictures, stamps))
    now = {stamp: seen for stamp, seen in zip(stamps, found) if stamp is not None and isinstance(seen, PictureFacts)}
    if now != known:
        digests = [list(bytes.fromhex(seen.sha256)) for seen in now.values()]
        noted = {
            STAMPS: as_bytes(json.dumps(list(now))),
            DIGESTS: torch.tensor(digests, dtype=torch.uint8),
            SIZES: torch.tensor([seen.size for seen in now.values()], dtype=torch.int32),
        }
        if kind is OF_VIDEOS:
            noted[SECONDS] = torch.tensor([seen.seconds for seen in now.values()], dtype=torch.float64)
        records.put(record, noted)
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


def _read(records: Cache, record: str) -> dict[str, PictureFacts]:
    """What is on record; nothing where the record is damaged, since with one wrong byte a picture would be another."""
    older = records.folder / f"{record}.json"
    if older.is_file():
        LOGGER.info("%s is of an older piflow: the pictures are looked at anew, once", older)
        older.unlink(missing_ok=True)
    if (entry := records.get(record)) is None:
        return {}
    digests, sizes = entry[DIGESTS].numpy(), entry[SIZES].tolist()
    lengths = entry[SECONDS].tolist() if SECONDS in entry else [None] * len(sizes)
    return {
        stamp: PictureFacts(digest.tobytes().hex(), (width, height), seconds)
        for stamp, digest, (width, height), seconds in zip(json.loads(as_text(entry[STAMPS])), digests, sizes, lengths)
    }
