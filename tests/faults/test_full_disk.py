"""A disk that fills up while `sample` and `eval` write: said in one line, and nothing
is left that was not there before."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from piflow_cli.evaluation import report_folder
from piflow_cli.system import files

NUMBERS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota of this disk is used up",
    errno.EFBIG: "the file is larger than this system lets it be",
}
QUICK = ["--seeds", "0-1", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def student(tiny_teacher, tmp_path_factory) -> Path:
    from piflow_cli.app import main

    folder = tmp_path_factory.mktemp("full") / "run"
    assert (
        main(["distill", "--teacher", str(tiny_teacher), "--iterations", "1", "--quiet", "--output", str(folder)]) == 0
    )
    return folder


@pytest.fixture
def commands(student, tmp_path, monkeypatch) -> dict[str, list[str]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return {
        "sample": ["sample", str(student), *QUICK],
        "teacher": ["sample", "--teacher", "digits", "--steps", "2", *QUICK],
        "eval": ["eval", str(student), "--metrics", "alignment", "--fine-steps", "2", *QUICK],
    }


def all_below(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")
    }


def failing(monkeypatch: pytest.MonkeyPatch, number: int, after: int) -> list[Path]:
    """Have the system refuse every file but the first ``after``: at fsync, as disks do that write later."""
    written: list[Path] = []

    def refuse(path: Path) -> None:
        if path not in written:
            written.append(path)
        if written.index(path) >= after:
            raise OSError(number, os.strerror(number), str(path))

    for module in (files, report_folder):
        monkeypatch.setattr(module, "sync_file", refuse)
    return written


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["sample", "teacher", "eval"])
def test_nothing_is_left_where_the_first_write_fails(cli, commands, tmp_path, monkeypatch, name: str, number: int):
    before = all_below(tmp_path)
    assert failing(monkeypatch, number, 0) == []
    outcome = cli(*commands[name], "--output", str(tmp_path / "a" / "b"))
    assert (outcome.code, outcome.out) == (1, "") and NUMBERS[number] in outcome.err, outcome.err
    assert len(outcome.err.splitlines()) == 2
    assert all_below(tmp_path) == before


@pytest.mark.parametrize("after", [1, 3, 6])
@pytest.mark.parametrize("name", ["sample", "eval"])
def test_what_is_left_later_is_whole(cli, commands, tmp_path, monkeypatch, name: str, after: int):
    """Files that have their names already, and no folder without any."""
    whole = tmp_path / "whole"
    assert cli(*commands[name], "--output", str(whole / "out")).code == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    written = failing(monkeypatch, errno.ENOSPC, after)
    outcome = cli(*commands[name], "--output", str(tmp_path / "again" / "out"))
    assert outcome.code == (1 if len(written) > after else 0)
    for place, content in all_below(tmp_path / "again").items():
        if content is None:
            assert any((tmp_path / "again" / place).iterdir()), place
        elif place.endswith(".png"):
            assert content == (whole / place).read_bytes()
        else:
            assert name == "eval" and outcome.code == 0, "a report that is not whole"


@pytest.mark.parametrize("name", ["sample", "eval"])
def test_what_was_there_before_stays(cli, commands, tmp_path, monkeypatch, name: str):
    """Where it is to be replaced too: what goes, goes last."""
    output = tmp_path / "out"
    assert cli(*commands[name], "--output", str(output)).code == 0
    before = all_below(output)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    failing(monkeypatch, errno.EDQUOT, 0)
    assert cli(*commands[name], "--output", str(output), "--overwrite").code == 1
    assert all_below(output) == before and not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["sample", "eval"])
def test_a_disk_on_which_no_folder_can_be_made(cli, commands, tmp_path, monkeypatch, name: str):
    """Of two the second."""
    make, made = Path.mkdir, []

    def refuse(path: Path, *given, **options) -> None:
        if tmp_path / "a" in (path, *path.parents):
            made.append(path)
            if len(made) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        make(path, *given, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    outcome = cli(*commands[name], "--output", str(tmp_path / "a" / "b"))
    assert outcome.code == 1 and "the disk is full" in outcome.err
    assert made and not (tmp_path / "a").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("name", ["sample", "eval"])
def test_a_true_limit_of_the_system(cli, commands, tmp_path, name: str):
    import resource

    before, limits = all_below(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        outcome = cli(*commands[name], "--output", str(tmp_path / "a" / "b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.code == 1 and NUMBERS[errno.EFBIG] in outcome.err, outcome.err
    # safetensors, which eval's cache is written by, does not let the file be named.
    assert name == "eval" or f"{NUMBERS[errno.EFBIG]}: {tmp_path}" in outcome.err
    assert all_below(tmp_path) == before
