"""Edits in folders: which files belong together, and which would take another's place."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from edit_data import named_edits, picture
from picture_files import put

from piflow_cli.data.edits import Edit, list_edits
from piflow_cli.data.pictures import Unreadable
from piflow_cli.errors import UsageError
from piflow_cli.presets.schema import DataSection


def edits(folder: Path) -> list[Edit]:
    return list_edits(DataSection(captioned=str(folder), resolution=64), data_free=True)


@pytest.mark.parametrize(("stored", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_the_same_in_both_forms_of_unicode(tmp_path, stored: str, written: str) -> None:
    on_disk, typed = (unicodedata.normalize(form, "\u00e9") for form in (stored, written))
    for folder in ("named", "listed"):
        picture(tmp_path / folder / "reference" / f"{on_disk}.png", 0)
        picture(tmp_path / folder / f"{on_disk}.png", 1)
    put(tmp_path / "named", {f"{typed}.txt": "a fox"})
    row = {"reference": f"reference/{typed}.png", "text": "a fox", "file_name": f"{typed}.png"}
    put(tmp_path / "listed", {"metadata.jsonl": json.dumps(row)})
    for folder in ("named", "listed"):
        (edit,) = edits(tmp_path / folder)
        assert edit.text == "a fox" and edit.reference.read() and edit.target.read()


@pytest.mark.parametrize("twin", ["reference/1.jpg", "1.jpg"])
def test_two_pictures_for_one_edit_are_refused_by_name(tmp_path, twin: str) -> None:
    picture(named_edits(tmp_path) / twin, 0)
    with pytest.raises(UsageError) as caught:
        edits(tmp_path)
    assert twin in caught.value.message and twin.replace("jpg", "png") in caught.value.message


def test_a_reference_with_an_instruction_and_an_unknown_suffix_is_not_passed_over(tmp_path) -> None:
    put(named_edits(tmp_path), {"reference/4.heic": b"no picture", "4.txt": "x", "reference/notes.md": "", "5.txt": ""})
    found = edits(tmp_path)
    assert [edit.reference.name for edit in found] == [
        f"reference/{name}" for name in ("0.png", "1.png", "2.png", "4.heic")
    ]
    with pytest.raises(Unreadable, match="not a picture"):
        found[3].reference.open()
