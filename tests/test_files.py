import os

import pytest

from piflow_cli.files import replacing_file, replacing_folder


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
