import errno
import os
import re
import sys
from pathlib import Path

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.presets.places import expanded
from piflow_cli.system import files
from piflow_cli.system.files import (
    LONGEST_NAME,
    cache_folder,
    check_writable,
    recover,
    replacing_file,
    replacing_folder,
    user_cache,
)


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
    deep = tmp_path / "file" / "deep" / "folder"
    for folder, named in {tmp_path / "file": "", deep: f"{deep} cannot be made: "}.items():
        with pytest.raises(UsageError) as caught:
            check_writable(folder)
        assert caught.value.message == f"{named}{tmp_path / 'file'} is a file" and "--output" in caught.value.hint


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux has a folder in which nobody makes files")
def test_what_was_named_comes_first_where_the_folder_above_takes_no_files() -> None:
    with pytest.raises(UsageError) as caught:
        check_writable(Path("/proc/foo/deep"))
    assert caught.value.message == (
        "/proc/foo/deep cannot be made: /proc cannot be written to: no files can be made in it"
    )
    with pytest.raises(UsageError) as caught:
        check_writable(Path("/proc"))
    assert caught.value.message == "/proc cannot be written to: no files can be made in it"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EROFS, UsageError), (errno.EACCES, UsageError), (errno.ENOSPC, OSError)]
)
def test_what_the_system_refuses_is_no_folder_to_write_to_but_a_full_disk_is_itself(
    tmp_path, monkeypatch, number: int, kind
) -> None:
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


@pytest.fixture(params=["exchange", "two steps"])
def way(request, monkeypatch) -> str:
    """How folders change places: where the system can exchange them, and where it cannot."""
    if request.param == "two steps":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    return request.param


def test_a_folder_takes_the_place_of_another(tmp_path, way) -> None:
    path = tmp_path / "folder"
    for text in ("first", "second"):
        with replacing_folder(path) as aside:
            (aside / text).touch()
    assert os.listdir(path) == ["second"] and os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="exchanging two folders is Linux's own")
def test_there_is_no_moment_without_a_folder(tmp_path, monkeypatch) -> None:
    path = tmp_path / "folder"
    (path / "first").mkdir(parents=True)
    monkeypatch.setattr(os, "rename", lambda *given: pytest.fail("the folder was moved away"))
    with replacing_folder(path) as aside:
        (aside / "second").touch()
    assert os.listdir(path) == ["second"]


def test_a_folder_comes_back_if_its_successor_cannot_take_its_place(tmp_path, monkeypatch) -> None:
    path = tmp_path / "folder"
    with replacing_folder(path) as aside:
        (aside / "first").touch()
    rename = os.rename

    def fails(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(13, "Permission denied")
        return rename(source, target)

    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError), replacing_folder(path) as aside:
        (aside / "second").touch()
    assert os.listdir(path) == ["first"] and os.listdir(tmp_path) == ["folder"]


def test_what_was_moved_away_for_a_successor_that_never_came_is_put_back(tmp_path, monkeypatch) -> None:
    path = tmp_path / "folder"
    for name in ("folder", "other"):
        (tmp_path / name / "first").mkdir(parents=True)

    class Killed(BaseException):
        pass

    def killed(source, target):
        if str(source).endswith(".tmp"):
            raise Killed
        return rename(source, target)

    rename = os.rename
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files, "exchange", lambda one, other: False)
        patch.setattr(os, "rename", killed)
        with replacing_folder(path) as aside:
            (aside / "second").touch()
    assert not path.exists()
    assert recover(tmp_path, re.compile("folder")) == [path]
    assert os.listdir(path) == ["first"] and sorted(os.listdir(tmp_path)) == ["folder", "other"]


def test_leftovers_go_and_only_those_of_the_names_that_are_asked_for(tmp_path) -> None:
    """Those of piflow 0.1 too, which named them after its process or by eight letters."""
    gone = [".a.json.0123456789abcdef.tmp", ".a.json.4711.tmp", ".folder.x1y2z3_4.tmp", ".folder.x1y2z3_4.old"]
    kept = [".b.json.4711.tmp", "a.json", "folder", ".a.json", ".a.json.swp", "a.json.tmp"]
    for name in (*gone, *kept):
        (tmp_path / name).mkdir() if "folder" in name else (tmp_path / name).touch()
    assert recover(tmp_path, re.compile(r"a\.json|folder")) == []
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    assert recover(tmp_path / "absent", re.compile(".*")) == []


def test_names_aside_are_random_and_fit_the_file_system(tmp_path) -> None:
    path = tmp_path / ("ä" * 120 + ".json")
    with replacing_file(path) as one, replacing_file(path) as other:
        assert one != other and str(os.getpid()) not in one.name.split(".")
        one.write_text("1")
        other.write_text("2")
    assert os.listdir(tmp_path) == [path.name] and path.read_text() == "1"


def test_a_file_that_may_not_be_written_to_and_a_link_can_be_part_of_a_folder(tmp_path) -> None:
    with replacing_folder(tmp_path / "folder") as aside:
        (aside / "read-only").write_text("x")
        (aside / "read-only").chmod(0o400)
        (aside / "link").symlink_to("nowhere")
    assert sorted(os.listdir(tmp_path / "folder")) == ["link", "read-only"]
