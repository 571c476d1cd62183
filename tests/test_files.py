import errno
import os

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.files import LONGEST_NAME, cache_folder, check_writable, expanded, replacing_file, replacing_folder, user_cache


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


@pytest.mark.parametrize("length", [LONGEST_NAME + 1, 300])
def test_a_name_that_no_file_system_takes_is_refused_in_one_short_line(tmp_path, length: int) -> None:
    with pytest.raises(UsageError) as caught:
        check_writable(tmp_path / ("x" * length) / "report")
    assert "--output DIR" in caught.value.hint and len(caught.value.message) < 200
    check_writable(tmp_path / ("x" * LONGEST_NAME))


@pytest.fixture
def homeless(monkeypatch) -> None:
    """A user that the system does not know, without HOME: what `docker run --user 12345` gives."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    pwd = pytest.importorskip("pwd")

    def unknown(who):
        raise KeyError(who)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


def test_without_a_home_the_cache_is_asked_for(homeless, monkeypatch, tmp_path) -> None:
    with pytest.raises(UsageError, match="HOME is not set") as caught:
        user_cache()
    assert "export XDG_CACHE_HOME=" in caught.value.hint
    with pytest.raises(UsageError, match="HOME is not set") as caught:
        cache_folder(None)
    assert "--cache DIR" in caught.value.hint
    assert cache_folder(tmp_path / "own") == tmp_path / "own"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == cache_folder(None) == tmp_path / "piflow"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with pytest.raises(UsageError):
        user_cache()


def test_a_home_that_nobody_has_is_named(homeless) -> None:
    for path in ("~", "~nobody/student"):
        with pytest.raises(UsageError, match=path):
            expanded(path)
    assert str(expanded("a/~/b")) == "a/~/b"


def test_a_cache_that_cannot_be_written_to_leads_to_its_option(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the cache .*file is a file") as caught:
        cache_folder(tmp_path / "file" / "piflow")
    assert "--cache DIR" in caught.value.hint and "--output" not in caught.value.hint

    def refuses(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuses)
    with pytest.raises(UsageError, match="the cache .*Read-only") as caught:
        cache_folder(tmp_path / "piflow")
    assert "--cache DIR" in caught.value.hint


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
