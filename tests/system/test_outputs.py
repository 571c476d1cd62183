from __future__ import annotations

from pathlib import Path

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.system.outputs import check_output, clear, next_free, output_folder


def filled(folder: Path, name: str = "ours.txt") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(name)
    return folder


def ours(path: Path) -> bool:
    return path.name.startswith("ours")


def test_the_first_free_folder_is_taken(tmp_path: Path) -> None:
    """New and empty ones are free; a file or a dangling link is not."""
    place = tmp_path / "digits"
    assert next_free(place) == place
    place.mkdir()
    assert next_free(place) == place
    filled(place)
    assert next_free(place) == tmp_path / "digits-2"
    (tmp_path / "digits-2").write_text("")
    (tmp_path / "digits-3").symlink_to(tmp_path / "nowhere")
    assert next_free(place) == tmp_path / "digits-4"


def test_beside_a_folder_without_a_name_there_is_one_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = filled(tmp_path / "digits") / "inside"
    inside.mkdir()
    monkeypatch.chdir(tmp_path / "digits")
    assert next_free(Path()) == tmp_path / "digits-2"
    monkeypatch.chdir(inside)
    assert next_free(Path("..")) == tmp_path / "digits-2"


def test_what_no_other_folder_can_take_the_place_of_is_refused_where_that_is_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.path.ismount", lambda place: Path(place).name == "disk")
    for folder, said in ((tmp_path / "disk", "a disk is mounted"), (tmp_path, "the current folder")):
        with pytest.raises(UsageError, match=said):
            check_output(folder, True, "piflow x", lambda path: True, whole=True)
        check_output(folder, True, "piflow x", lambda path: True)


def test_a_named_folder_is_the_one_and_so_is_the_usual_one_that_is_to_be_replaced(tmp_path: Path) -> None:
    usual = filled(tmp_path / "digits")
    assert output_folder(tmp_path / "mine", usual) == tmp_path / "mine"
    assert output_folder(usual, tmp_path / "other") == usual
    assert output_folder(None, usual) == tmp_path / "digits-2"
    assert output_folder(None, usual, overwrite=True) == usual


def test_what_is_there_is_replaced_only_where_that_is_asked_and_the_command_made_it(tmp_path: Path) -> None:
    for free in (tmp_path / "new", tmp_path / "empty"):
        check_output(free, False, "piflow x", ours)
        (tmp_path / "empty").mkdir(exist_ok=True)
    folder = filled(tmp_path / "out")
    with pytest.raises(UsageError, match="out is not empty") as caught:
        check_output(folder, False, "piflow x", ours)
    assert caught.value.hint is not None and "--overwrite" in caught.value.hint
    check_output(folder, True, "piflow x", ours)
    filled(folder, "theirs.txt")
    with pytest.raises(UsageError, match=r"holds something that piflow x did not write: theirs\.txt"):
        check_output(folder, True, "piflow x", ours)
    clear(folder, ours, keep=())
    assert [path.name for path in folder.iterdir()] == ["theirs.txt"]


def test_a_link_to_a_folder_goes_and_its_folder_stays(tmp_path: Path) -> None:
    elsewhere = filled(tmp_path / "elsewhere")
    folder = filled(tmp_path / "out")
    (folder / "ours-link").symlink_to(elsewhere)
    clear(folder, ours, keep={filled(folder, "ours-now.txt") / "ours-now.txt"})
    (folder / "ours-now.txt").unlink()
    assert not list(folder.iterdir()) and (elsewhere / "ours.txt").is_file()
