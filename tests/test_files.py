import errno
import os

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.files import check_writable, replacing_file, replacing_folder


def test_a_file_appears_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with replacing_file(path) as aside:
        aside.write_text("first")
        assert not path.exists()
    with pytest.raises(RuntimeError), replacing_file(path) as aside:
        aside.write_text("second")
        raise RuntimeError
    assert path.read_text() == "first" and os.listdir(path.parent) == ["file.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "deep" / "folder"
    for text in ("first", "second"):
        with replacing_folder(path) as aside:
            (aside / text).write_text(text)
        assert os.listdir(path) == [text]
    with pytest.raises(RuntimeError), replacing_folder(path) as aside:
        (aside / "third").write_text("third")
        raise RuntimeError
    assert os.listdir(path) == ["second"] and os.listdir(path.parent) == ["folder"]


def test_a_folder_is_writable_before_it_is_there_and_nothing_is_left_in_it(tmp_path) -> None:
    check_writable(tmp_path / "deep" / "folder")
    check_writable(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep" / "folder"):
        with pytest.raises(UsageError, match="file is a file") as caught:
            check_writable(folder)
        assert "--output" in caught.value.hint


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, UsageError), (errno.EACCES, UsageError), (errno.ENOSPC, OSError)])
def test_what_the_system_refuses_is_no_folder_to_write_to_but_a_full_disk_is_itself(tmp_path, monkeypatch, number: int, kind) -> None:
    def refuses(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refuses)
    with pytest.raises(kind, match=os.strerror(number)):
        check_writable(tmp_path)


def test_a_folder_comes_back_if_its_successor_cannot_take_its_place(tmp_path, monkeypatch) -> None:
    path = tmp_path / "folder"
    with replacing_folder(path) as aside:
        (aside / "first").touch()
    rename = type(path).rename

    def fails(self, target):
        if self.suffix == ".tmp":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", fails)
    with pytest.raises(OSError), replacing_folder(path) as aside:
        (aside / "second").touch()
    assert os.listdir(path) == ["first"] and os.listdir(tmp_path) == ["folder"]
