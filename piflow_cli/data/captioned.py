"""Pictures or videos with captions: found in a folder, in webdataset shards or, of pictures, in a data set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..errors.table import INSTALL_HINTS
from ..wording import few
from .captions import METADATA, pictures_of_folder
from .picture import Picture, TextKind, caption_of, captions
from .picture_folders import files_below
from .pictures import Unreadable
from .places import NAME_CAPTIONED, require_captioned, require_videos
from .rows import IMAGE_OPTION, TEXT_OPTION, naming, open_dataset
from .sample_kinds import OF_PICTURES, OF_VIDEOS, SampleKind, kind_of
from .shards import pictures_of_shards
from .videos import GIF, PACKAGE

if TYPE_CHECKING:
    from ..presets.schema import DataSection


def list_pictures(section: DataSection) -> list[Picture]:
    """The pictures of ``section.captioned``, or its videos where ``section`` has a number of frames; none is read.

    As many as ``section.limit`` allows, in an order that depends on their names alone.

    What comes with a caption and may be no picture is among them: reading it says so. Raises UsageError where there are
    none, where they are all of the other kind, where a package that reads them is missing, and with all faults of the
    metadata or shards.
    """
    kind = kind_of(section)
    found = _all_pictures(section, kind)
    _refuse_others(section.captioned, [picture.name for picture in found if picture.file is not None], kind)
    chosen = found[: section.limit]
    if kind is OF_VIDEOS:
        _require_package(section.captioned, chosen)
    return chosen


def _all_pictures(section: DataSection, kind: SampleKind) -> list[Picture]:
    source, path = str(section.captioned), Path(str(section.captioned))
    if path.suffix == ".tar" and path.is_file():
        return pictures_of_shards([path], captions(section.text_column), kind)
    if path.is_dir():
        return _of_folder(path, captions(section.text_column), kind)
    (require_captioned if kind is OF_PICTURES else require_videos)(source)
    if path.exists():
        raise UsageError(f"{source} is neither a folder nor a .tar shard", NAME_CAPTIONED)
    return _of_dataset(source, section)


def _of_folder(path: Path, told: TextKind, kind: SampleKind) -> list[Picture]:
    """The pictures or videos of a folder, or of the shards in it."""
    files = files_below(path)
    shards = [file for file in files if file.suffix == ".tar"]
    if shards and any(file.suffix.lower() in kind.suffixes or file.name in METADATA for file in files):
        raise UsageError(f"{path} holds both {kind.names} and .tar shards", "keep each in a folder of its own")
    if shards:
        return pictures_of_shards(shards, told, kind)
    pictures = pictures_of_folder(path, files, told, kind)
    if not pictures:
        _refuse_others(path, [file.name for file in files if file.suffix.lower() in _suffixes_of_others(kind)], kind)
        raise UsageError(f"{path} holds no {kind.names} ({', '.join(kind.suffixes)}) and no .tar shards", _layout(kind))
    return pictures


def _layout(kind: SampleKind) -> str:
    return f"put NAME.txt beside each NAME{kind.example}, or a metadata.jsonl with file_name and text"


def _suffixes_of_others(kind: SampleKind) -> frozenset[str]:
    """Suffixes by which a file is of the other kind, and not of this one."""
    return frozenset(_other(kind).suffixes) - frozenset(kind.suffixes)


def _other(kind: SampleKind) -> SampleKind:
    return OF_VIDEOS if kind is OF_PICTURES else OF_PICTURES


def _refuse_others(source: str | Path | None, names: Collection[str], kind: SampleKind) -> None:
    """Raise UsageError where all that a source holds is of the other kind."""
    others = _suffixes_of_others(kind)
    if names and all(Path(name).suffix.lower() in others for name in names):
        raise UsageError(
            f"{source} holds {_other(kind).names} and no {kind.names}, and this teacher makes {kind.names}",
            f"name {kind.names} in their place: --data SOURCE",
        )


def _require_package(source: str | None, videos: Sequence[Picture]) -> None:
    """Raise UsageError where there are videos that nothing installed reads."""
    beyond = _suffixes_of_others(OF_VIDEOS) | {GIF}
    needing = [
        video.name for video in videos if video.file is not None and Path(video.name).suffix.lower() not in beyond
    ]
    if needing and find_spec(PACKAGE) is None:
        raise UsageError(
            f"{len(needing)} of {len(videos)} videos of {source} need the package {PACKAGE} ({few(needing)})",
            INSTALL_HINTS[PACKAGE],
        )


def _of_dataset(source: str, section: DataSection) -> list[Picture]:
    from datasets import Image as Pictures

    dataset = open_dataset(
        source, section.split, {section.image_column: IMAGE_OPTION, section.text_column: TEXT_OPTION}
    )
    if not isinstance(dataset.features[section.image_column], Pictures):
        others = [name for name, kind in dataset.features.items() if isinstance(kind, Pictures)]
        raise UsageError(
            f"the column {section.image_column} of {source} holds no pictures",
            naming(others, IMAGE_OPTION, section.image_column),
        )
    texts = dataset[section.text_column]
    encoded = dataset.select_columns([section.image_column]).cast_column(section.image_column, Pictures(decode=False))

    def read(row: int) -> bytes:
        value: dict[str, Any] | None = encoded[row][section.image_column]
        if value is None:
            raise Unreadable("there is none in this row")
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()

    return [Picture(f"{source}[{row}]", caption_of(caption), partial(read, row)) for row, caption in enumerate(texts)]
