"""Edits: a reference picture, the instruction that says what to make of it, and where there is one the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..wording import few
from .captions import FILE_COLUMN, METADATA, REFERENCE_COLUMN, Key, keys, there
from .picture import Picture, caption_of
from .picture_folders import files_below
from .pictures import SUFFIXES
from .places import require_edits
from .rows import TEXT_OPTION, Faults, csv_rows, is_text, jsonl_rows, naming, read_text

if TYPE_CHECKING:
    from ..presets.schema import DataSection

FOLDER = REFERENCE_COLUMN  # of the reference pictures, where no metadata lists them
LAYOUT = (
    f"put NAME.txt beside each NAME.jpg and the reference into {FOLDER}/NAME.jpg, or write a metadata.jsonl with"
    f" {REFERENCE_COLUMN}, text and {FILE_COLUMN}"
)


@dataclass(frozen=True)
class Edit:
    """A sample: ``text`` is None where there is no instruction, and ``target`` where no picture shows the result."""

    text: str | None
    reference: Picture
    target: Picture | None


def list_edits(section: DataSection, data_free: bool) -> list[Edit]:
    """The edits in the folder ``section.captioned``, as many as ``section.limit`` allows; no picture is read.

    Metadata files list them, or else files of one name belong together. Raises UsageError where there are none, with
    all faults of a metadata file, where pictures lack a reference, and unless ``data_free`` where edits lack a target.
    """
    source = str(section.captioned)
    require_edits(source)
    path = Path(source)
    files = files_below(path)
    key_of = keys()
    present = {key_of(file): file for file in files}
    listed = [file for file in files if file.name in METADATA]
    found = [
        edit
        for file in listed
        for edit in _listed(path, file, section.text_column, lambda place: there(place, present, key_of))
    ]
    if not listed:
        found = list(_by_names(path, present, key_of))
    if not found:
        raise UsageError(f"{path} holds no edits", LAYOUT)
    edits = found[: section.limit]
    lacking = sum(edit.target is None for edit in edits)
    if lacking and not data_free:
        raise UsageError(
            f"{lacking} of {len(edits)} edits of {source} have no target picture to add noise to",
            "add them, or train from noise: --data-free",
        )
    return edits


def _listed(folder: Path, file: Path, column: str, found: Callable[[Path], Path | None]) -> Iterator[Edit]:
    """The rows of a metadata file, whose pictures are where ``found`` says; raises UsageError with all its faults."""
    faults = Faults(file)
    wanted = {REFERENCE_COLUMN: "", column: TEXT_OPTION}
    rows = list(csv_rows(file, wanted, faults) if file.suffix == ".csv" else jsonl_rows(file, faults))
    if rows and not any(REFERENCE_COLUMN in row for _, row in rows):
        raise UsageError(f"{file} names no reference pictures, and this teacher edits one", LAYOUT)
    edits = []
    for line, row in rows:
        if (what := _fault(row, column)) is not None:
            faults.add(line, what)
            continue
        # A CSV file has the column for all or for none.
        named = [row[REFERENCE_COLUMN], *([row[FILE_COLUMN]] if row.get(FILE_COLUMN) else [])]
        files = [found(file.parent / name) for name in named]
        pictures = [_picture(folder, path) for path in files if path is not None]
        if len(pictures) < len(named):
            faults.add(line, f"there is no file {named[files.index(None)]}")
        else:
            edits.append(Edit(caption_of(row[column]), pictures[0], pictures[1] if len(pictures) > 1 else None))
    others = list({name: None for _, row in rows for name, value in row.items() if isinstance(value, str)})
    missing = others and column not in others
    faults.refuse(
        naming([name for name in others if name not in (REFERENCE_COLUMN, FILE_COLUMN)], TEXT_OPTION, column)
        if missing
        else f"write {REFERENCE_COLUMN} and {column} in each line, and {FILE_COLUMN} where there is a target"
    )
    yield from edits


def _fault(row: dict[str, Any], column: str) -> str | None:
    for name in (REFERENCE_COLUMN, column):
        if not is_text(row.get(name)):
            return f"{name} is {'no text' if name in row else 'missing'}"
    # An empty cell of a CSV file, and null, are no target.
    if row.get(FILE_COLUMN) and not is_text(row[FILE_COLUMN]):
        return f"{FILE_COLUMN} is no text"
    return None


def _by_names(folder: Path, present: Mapping[Key, Path], key_of: Callable[[Path], Key]) -> Iterator[Edit]:
    """A reference FOLDER/NAME.*, the instruction NAME.txt beside FOLDER, and the target NAME.* there."""
    texts = {key_of(file.with_suffix("")): file for file in present.values() if file.suffix == ".txt"}
    references: dict[Key, Path] = {}
    targets: dict[Key, Path] = {}
    for file in present.values():
        shown = file.parent.name == FOLDER
        name = key_of((file.parent.parent if shown else file.parent) / file.stem)
        # A reference that has an instruction is meant, whatever it is called: reading it says what it is.
        if file.suffix.lower() in SUFFIXES or (shown and name in texts):
            other = (references if shown else targets).setdefault(name, file)
            if other != file:
                both = f"{other.relative_to(folder)} and {file.relative_to(folder)}"
                raise UsageError(f"{folder} holds two pictures for one edit: {both}", LAYOUT)
    if targets and not references:
        raise UsageError(f"{folder} holds no reference pictures, and this teacher edits one", LAYOUT)
    if lone := [str(file.relative_to(folder)) for name, file in targets.items() if name not in references]:
        raise UsageError(f"{len(lone)} pictures of {folder} have no reference: {few(lone)}", LAYOUT)
    for name, file in references.items():
        yield Edit(
            caption_of(read_text(texts[name])) if name in texts else None,
            _picture(folder, file),
            _picture(folder, targets[name]) if name in targets else None,
        )


def _picture(folder: Path, path: Path) -> Picture:
    name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
    return Picture(name, None, path.read_bytes, path)
