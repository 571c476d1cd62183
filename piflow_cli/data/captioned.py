"""Pictures with captions: found in a folder, in webdataset shards or in a data set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .captions import METADATA, pictures_of_folder
from .picture import Picture, TextKind, caption_of, captions
from .picture_folders import files_below
from .pictures import SUFFIXES
from .places import NAME_CAPTIONED, require_captioned
from .rows import IMAGE_OPTION, TEXT_OPTION, naming, open_dataset
from .shards import pictures_of_shards

if TYPE_CHECKING:
    from ..presets.schema import DataSection

LAYOUT = "put NAME.txt beside each NAME.jpg, or a metadata.jsonl with file_name and text"


def list_pictures(section: DataSection) -> list[Picture]:
    """The pictures of ``section.captioned``, in an order that depends on their names alone; no picture is read.

    As many as ``section.limit`` allows.

    What comes with a caption and may be no picture is among them: reading it says so. Raises UsageError where there are
    none, and with all faults of the metadata or shards.
    """
    return _all_pictures(section)[: section.limit]


def _all_pictures(section: DataSection) -> list[Picture]:
    source, path = str(section.captioned), Path(str(section.captioned))
    if path.suffix == ".tar" and path.is_file():
        return pictures_of_shards([path], captions(section.text_column))
    if path.is_dir():
        return _of_folder(path, captions(section.text_column))
    require_captioned(source)
    if path.exists():
        raise UsageError(f"{source} is neither a folder nor a .tar shard", NAME_CAPTIONED)
    return _of_dataset(source, section)


def _of_folder(path: Path, told: TextKind) -> list[Picture]:
    """The pictures of a folder, or of the shards in it."""
    files = files_below(path)
    shards = [file for file in files if file.suffix == ".tar"]
    if shards and any(file.suffix.lower() in SUFFIXES or file.name in METADATA for file in files):
        raise UsageError(f"{path} holds both pictures and .tar shards", "keep each in a folder of its own")
    if shards:
        return pictures_of_shards(shards, told)
    pictures = pictures_of_folder(path, files, told)
    if not pictures:
        raise UsageError(f"{path} holds no pictures ({', '.join(SUFFIXES)}) and no .tar shards", LAYOUT)
    return pictures


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
        value: dict[str, Any] = encoded[row][section.image_column]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()

    return [Picture(f"{source}[{row}]", caption_of(caption), partial(read, row)) for row, caption in enumerate(texts)]
