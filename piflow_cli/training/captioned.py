"""Pictures with captions: found in a folder, in webdataset shards or in a data set, and opened.

Shards are read with the standard library's tarfile: grouping members by name takes a dozen lines, and offsets into an
uncompressed tar give random access, which webdataset's streams do not.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from ..errors import UsageError
from ..tables import HUB_ID, Faults, csv_rows, jsonl_rows, open_dataset, read_text

if TYPE_CHECKING:
    from ..preset_schema import DataSection

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
METADATA = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
ORIENTATION = 0x0112
LAYOUT = "put NAME.txt beside each NAME.jpg, or a metadata.jsonl with file_name and text"


@dataclass(frozen=True)
class Picture:
    """A picture that has not been read yet. ``name`` is for messages; ``caption`` None: there is none.

    ``file``: where its bytes begin at ``offset``; None where that is not for us to know.
    """

    name: str
    caption: str | None
    read: Callable[[], bytes]
    file: Path | None = None
    offset: int = 0


class Unreadable(Exception):
    """Bytes that are no picture; the text says why."""


def list_pictures(section: DataSection) -> list[Picture]:
    """All pictures of ``section.captioned``, in an order that depends on their names alone; no picture is read.

    Raises UsageError where there are none, and with all faults of the metadata or shards.
    """
    source, path = str(section.captioned), Path(str(section.captioned))
    if path.suffix == ".tar" and path.is_file():
        return _of_shards([path], section.text_column)
    if path.is_dir():
        files = _files(path)
        shards = [file for file in files if file.suffix == ".tar"]
        pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
        if shards and pictures:
            raise UsageError(f"{path} holds both pictures and .tar shards", "keep each in a folder of its own")
        if not shards and not pictures:
            raise UsageError(f"{path} holds no pictures ({', '.join(SUFFIXES)}) and no .tar shards", LAYOUT)
        return _of_shards(shards, section.text_column) if shards else _of_folder(path, files, pictures, section.text_column)
    if path.exists() or path.suffix == ".tar" or not HUB_ID.fullmatch(source):
        raise UsageError(f"there are no pictures at {source}", "name a folder, a .tar shard, or a data set as OWNER/NAME")
    return _of_dataset(source, section)


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height as a person sees the picture, from its header; raises Unreadable."""
    with _decoding(), Image.open(io.BytesIO(data)) as picture:
        turned = picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return picture.size[::-1] if turned else picture.size


def open_picture(data: bytes) -> Image.Image:
    """The picture upright, in RGB, on white where it is transparent; raises Unreadable."""
    with _decoding(), Image.open(io.BytesIO(data)) as picture:
        upright = ImageOps.exif_transpose(picture)
        if "A" in upright.getbands() or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
        return upright.convert("RGB")


@contextmanager
def _decoding() -> Iterator[None]:
    """Whatever goes wrong inside is Unreadable."""
    try:
        yield
    except Image.UnidentifiedImageError as error:
        raise Unreadable("not a picture") from error
    except Exception as error:
        # Pillow's decoders raise whatever their parsing runs into: OSError, SyntaxError, ValueError, struct.error, ...
        raise Unreadable((str(error).splitlines() or [type(error).__name__])[0]) from error


def _files(folder: Path) -> list[Path]:
    """All files below ``folder`` but hidden ones, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _of_folder(folder: Path, files: list[Path], pictures: list[Path], text_column: str) -> list[Picture]:
    captions: dict[Path, str] = {}
    for file in files:
        if file.name in METADATA:
            captions |= _metadata(file, text_column)
    present = set(files)
    for path in pictures:
        beside = path.with_suffix(".txt")
        if path not in captions and beside in present:
            captions[path] = read_text(beside)
    return [Picture(str(path.relative_to(folder)), _caption(captions.get(path)), path.read_bytes, path) for path in pictures]


def _metadata(path: Path, text_column: str) -> dict[Path, str]:
    """Captions by file, as a metadata file gives them; raises UsageError with all its faults."""
    faults = Faults(path)
    rows = jsonl_rows(path, faults) if path.suffix == ".jsonl" else csv_rows(path, (FILE_COLUMN, text_column), faults)
    captions = {}
    for line, row in rows:
        wrong = [name for name in (FILE_COLUMN, text_column) if not isinstance(row.get(name), str)]
        file = path.parent / str(row.get(FILE_COLUMN))
        if wrong:
            faults.add(line, f"{wrong[0]} is {'no text' if wrong[0] in row else 'missing'}")
        elif not file.is_file():
            faults.add(line, f"there is no file {row[FILE_COLUMN]}")
        else:
            captions[file] = row[text_column]
    faults.refuse("write file_name and text in each line; another column's name: --set data.text_column=NAME")
    return captions


def _of_shards(shards: list[Path], text_column: str) -> list[Picture]:
    pictures, damaged = [], []
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as tar:
                members = [member for member in tar if member.isfile()]
        except (tarfile.TarError, EOFError) as error:
            damaged.append(f"{shard}: {error}")
            continue
        for name, parts in _grouped(members).items():
            pictures += _of_group(shard, name, parts, text_column)
    if damaged:
        raise UsageError("shards that are cut short or no uncompressed tar:\n  " + "\n  ".join(damaged), "write or download them again")
    if not pictures:
        raise UsageError(f"the shards of {shards[0].parent} hold no pictures ({', '.join(SUFFIXES)})", "add NAME.jpg with NAME.txt")
    return pictures


def _grouped(members: list[tarfile.TarInfo]) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Members by sample, then by suffix: webdataset cuts a name at the first dot of its last part."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        groups.setdefault(folder + slash + stem, {})["." + suffix.lower()] = member
    return groups


def _of_group(shard: Path, name: str, parts: Mapping[str, tarfile.TarInfo], text_column: str) -> Iterator[Picture]:
    def read(member: tarfile.TarInfo) -> bytes:
        with shard.open("rb") as file:
            file.seek(member.offset_data)
            return file.read(member.size)

    caption = None
    if ".txt" in parts:
        caption = _text_caption(read(parts[".txt"]))
    elif ".json" in parts:
        caption = _json_caption(read(parts[".json"]), text_column)
    for suffix in SUFFIXES:
        if suffix in parts:
            member = parts[suffix]
            yield Picture(f"{shard.name}/{name}{suffix}", _caption(caption), partial(read, member), shard, member.offset_data)


def _text_caption(data: bytes) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _json_caption(data: bytes, text_column: str) -> str | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    caption = value.get(text_column) if isinstance(value, dict) else None
    return caption if isinstance(caption, str) else None


def _of_dataset(source: str, section: DataSection) -> list[Picture]:
    from datasets import Image as Pictures

    dataset = open_dataset(source, section.split, (section.image_column, section.text_column))
    if not isinstance(dataset.features[section.image_column], Pictures):
        raise UsageError(f"the column {section.image_column} of {source} holds no pictures", "name another: --set data.image_column=NAME")
    captions = dataset[section.text_column]
    encoded = dataset.select_columns([section.image_column]).cast_column(section.image_column, Pictures(decode=False))

    def read(row: int) -> bytes:
        value: dict[str, Any] = encoded[row][section.image_column]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()

    return [Picture(f"{source}[{row}]", _caption(caption), partial(read, row)) for row, caption in enumerate(captions)]


def _caption(text: object) -> str | None:
    """A caption, or None where there is nothing in it."""
    return text.strip() if isinstance(text, str) and text.strip() else None
