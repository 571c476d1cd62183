"""The captions in a folder of pictures: beside them, or in a metadata file that lists them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from ..errors import UsageError
from .picture import Picture, TextKind, caption_of
from .rows import Faults, csv_rows, is_text, jsonl_rows, naming, read_text
from .sample_kinds import OF_PICTURES, SampleKind

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN, REFERENCE_COLUMN = "file_name", "reference"

Key = tuple[str, str]
"""Of a file, the folder that it is really in and its name: the same however a path to it is written."""


def pictures_of_folder(
    folder: Path, files: Sequence[Path], told: TextKind, kind: SampleKind = OF_PICTURES
) -> list[Picture]:
    """The pictures, or what ``kind`` says, among ``files`` of ``folder``, and those that metadata list, sorted by path.

    A file is taken for a picture by its suffix, or because it has a caption of its own: then reading it tells. A
    picture that is listed several times with several captions is one sample with each. Raises UsageError with all
    faults of a metadata file.
    """
    key_of = keys()
    present = {key_of(path): path for path in files}
    captions = _listed([file for file in files if file.name in METADATA], present, key_of, told)
    known = {key_of(path.with_suffix("")) for path in files if path.suffix.lower() in kind.suffixes}
    found = dict.fromkeys(files) | {path: None for path, _ in captions.values()}
    pictures = []
    for path in sorted(found):
        listed = captions.get(key_of(path))
        texts = _beside(path, present, known, key_of, told, kind) if listed is None else listed[1]
        name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
        pictures += [Picture(name, caption_of(text), path.read_bytes, path) for text in texts]
    return pictures


def _beside(
    path: Path,
    present: Mapping[Key, Path],
    known: set[Key],
    key_of: Callable[[Path], Key],
    told: TextKind,
    kind: SampleKind,
) -> list[str | None]:
    """The caption of a file that no metadata lists; None for a picture without one. Other files have no entry."""
    text = present.get(key_of(path.with_suffix(".txt"))) if ".txt" in told.members else None
    picture = path.suffix.lower() in kind.suffixes
    # A file beside a picture of the same name belongs to the same text, and is no picture.
    other = text is None or path == text or path.name in METADATA or key_of(path.with_suffix("")) in known
    if other and not picture:
        return []
    return [None if text is None else read_text(text)]


def _listed(
    files: Sequence[Path], present: Mapping[Key, Path], key_of: Callable[[Path], Key], told: TextKind
) -> dict[Key, tuple[Path, list[str]]]:
    """What the metadata ``files`` list: the file, as ``present`` has it, and its captions, each once."""
    captions: dict[Key, tuple[Path, list[str]]] = {}
    for file in files:
        for path, text in _metadata(file, present, key_of, told):
            texts = captions.setdefault(key_of(path), (path, []))[1]
            if text not in texts:
                texts.append(text)
    return captions


def _metadata(
    path: Path, present: Mapping[Key, Path], key_of: Callable[[Path], Key], told: TextKind
) -> list[tuple[Path, str]]:
    """The rows of a metadata file: files that are there, and captions; raises UsageError with all its faults."""
    faults = Faults(path)
    csv = path.suffix == ".csv"
    rows = csv_rows(path, {FILE_COLUMN: "", told.column: told.option}, faults) if csv else jsonl_rows(path, faults)
    found, columns = [], {}
    for line, row in rows:
        columns |= {name: None for name, value in row.items() if isinstance(value, str) and name != FILE_COLUMN}
        text = told.text(row.get(told.column))
        kinds = {FILE_COLUMN: "text", told.column: told.kind}
        wrong = [
            name
            for name, right in ((FILE_COLUMN, is_text(row.get(FILE_COLUMN))), (told.column, text is not None))
            if not right
        ]
        if wrong:
            faults.add(line, f"{wrong[0]} is {f'no {kinds[wrong[0]]}' if wrong[0] in row else 'missing'}")
        elif (file := there(path.parent / row[FILE_COLUMN], present, key_of)) is None:
            faults.add(line, f"there is no file {row[FILE_COLUMN]}")
        else:
            found.append((file, text))
    if REFERENCE_COLUMN in columns:
        raise UsageError(
            f"{path} names reference pictures, and this teacher is shown none",
            f"drop the column {REFERENCE_COLUMN}, or choose a teacher that edits pictures",
        )
    missing = told.option and columns and told.column not in columns
    faults.refuse(
        naming(list(columns), told.option, told.column)
        if missing
        else f"write {FILE_COLUMN} and {told.column} in each line"
    )
    return found


def there(path: Path, present: Mapping[Key, Path], key_of: Callable[[Path], Key]) -> Path | None:
    """The file at ``path``: as the walk found it, or else where it is; None where there is none."""
    try:
        key = key_of(path)
        return present[key] if key in present else path if path.is_file() else None
    except (OSError, ValueError):
        # A name that is too long, or that no file can have.
        return None


def keys() -> Callable[[Path], Key]:
    """A function that tells files apart, whatever links and dots a path has, in any form of Unicode."""
    folders = cache(os.path.realpath)

    def key_of(path: Path) -> Key:
        return _composed(folders(str(path.parent))), _composed(path.name)

    return key_of


def _composed(text: str) -> str:
    # macOS decomposes the names of files, and people and programs write them composed.
    return unicodedata.normalize("NFC", text)
