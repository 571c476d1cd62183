"""The lock of a run's folder, and waiting for another process's work."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from own_process import piflow

from piflow_cli.errors import UsageError
from piflow_cli.system import locking
from piflow_cli.system.locking import LOCK_NAME, FolderLock, LockHolder, waiting_for

HOLD = """
import sys, time
from pathlib import Path
from piflow_cli.system.locking import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def leave(folder: Path, **changes: object) -> None:
    """A lock file that nobody holds, as a killed process leaves it."""
    folder.mkdir(exist_ok=True)
    here = LockHolder.here()
    record = {"pid": here.pid, "host": here.host, "boot": here.boot, "since": "2026-01-01 00:00:00", **changes}
    (folder / LOCK_NAME).write_text(json.dumps(record) + "\n")


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_run_is_refused_naming_process_and_machine(holder, tmp_path) -> None:
    with pytest.raises(UsageError) as caught, FolderLock(tmp_path / "run"):
        pass
    assert (
        f"{tmp_path / 'run'} is in use by process {holder.pid} on {socket.gethostname()}, since "
        in caught.value.message
    )
    assert f"kill {holder.pid}" in caught.value.hint and "--output DIR" in caught.value.hint
    assert (tmp_path / "run" / LOCK_NAME).is_file()


def test_a_lock_goes_with_its_process_however_that_ends(holder, tmp_path) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / LOCK_NAME).is_file()
    with FolderLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / LOCK_NAME).exists()


def test_what_was_made_for_the_lock_alone_goes_with_it(tmp_path) -> None:
    with FolderLock(tmp_path / "runs" / "deep" / "run"):
        assert (tmp_path / "runs" / "deep" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path / "run"):
        (tmp_path / "run" / "kept").touch()
    assert os.listdir(tmp_path / "run") == ["kept"]


@pytest.mark.parametrize(
    "changes", [{}, {"pid": None}, {"boot": "another", "pid": None}, {"host": "container", "pid": 1}]
)
def test_a_lock_that_a_dead_process_left_is_taken_over_and_said(tmp_path, monkeypatch, caplog, changes) -> None:
    """It is gone since the lock is free: its number may be another's by now, its
    container of another name, the machine restarted."""
    changes = {name: dead_pid() if value is None else value for name, value in changes.items()}
    leave(tmp_path / "run", **changes)
    monkeypatch.setattr(logging.getLogger("piflow"), "propagate", True)
    with caplog.at_level(logging.INFO), FolderLock(tmp_path / "run"):
        assert "taking over" in caplog.text and "which is gone" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'{"pid": "x"}'])
def test_a_lock_that_cannot_be_read_and_nobody_holds_is_taken_over(tmp_path, content) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)
    with FolderLock(tmp_path):
        pass


def test_a_lock_of_another_machine_is_refused_with_what_to_type(tmp_path) -> None:
    folder = tmp_path / "a run"
    leave(folder, host="elsewhere", boot="another", pid=7)
    with pytest.raises(UsageError) as caught, FolderLock(folder):
        pass
    assert (
        "is locked by process 7 on elsewhere, since 2026-01-01 00:00:00, which cannot be looked at from here"
        in caught.value.message
    )
    command = caught.value.hint.partition(": ")[2]
    subprocess.run(command, shell=True, check=True)
    with FolderLock(folder):
        pass


def without_locks(*arguments):
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_where_the_file_system_knows_no_locks_the_process_number_decides(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_locks)
    leave(tmp_path / "run", pid=os.getppid())
    with (
        pytest.raises(UsageError, match=f"process {os.getppid()} on .* which may be at work"),
        FolderLock(tmp_path / "run"),
    ):
        pass
    leave(tmp_path / "run", pid=os.getppid(), host="elsewhere")
    with pytest.raises(UsageError, match="cannot be looked at from here"), FolderLock(tmp_path / "run"):
        pass
    for changes in ({"pid": dead_pid()}, {"pid": os.getpid()}, {"pid": os.getppid(), "boot": "the one before"}):
        leave(tmp_path / "run", **changes)
        with FolderLock(tmp_path / "run"):
            pass


def test_a_lock_follows_its_folder_when_what_was_there_is_moved(tmp_path) -> None:
    with FolderLock(tmp_path / "run") as lock:
        (tmp_path / "run" / "old").touch()
        (tmp_path / "run").rename(tmp_path / "run.1")
        lock.follow(tmp_path / "run.1")
        assert os.listdir(tmp_path / "run.1") == ["old"]
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert f"in use by process {os.getpid()}" in refused.stderr
        (tmp_path / "run" / "new").touch()
    assert os.listdir(tmp_path / "run") == ["new"]


def test_whoever_waits_for_another_process_says_so(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(locking, "SECONDS_UNTIL_SAID", 0.05)
    held = FileLock(tmp_path / "lock")
    held.acquire()
    acquire = FileLock.acquire

    def released_meanwhile(self, timeout=None, **options):
        if timeout is None:
            held.release()
        return acquire(self, timeout=timeout, **options)

    monkeypatch.setattr(FileLock, "acquire", released_meanwhile)
    monkeypatch.setattr(logging.getLogger("piflow"), "propagate", True)
    with caplog.at_level(logging.INFO), waiting_for(tmp_path / "lock", "it converts x.pt"):
        assert "waiting for another process: it converts x.pt" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO), waiting_for(tmp_path / "lock", "it converts x.pt"):
        assert caplog.text == ""


def test_two_starts_at_once_leave_one_run(tiny_teacher, tmp_path) -> None:
    command = piflow("distill", "--teacher", str(tiny_teacher), "--quiet", "--iterations", "100000")
    command += ["--output", str(tmp_path / "out"), "--device", "cpu"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) for _ in range(2)]
    deadline = time.monotonic() + 120
    while all(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = [process for process in processes if process.poll() is not None]
    assert len(ended) == 1 and ended[0].returncode == 2
    (other,) = set(processes) - set(ended)
    said = ended[0].communicate()[1]
    assert f"in use by process {other.pid} on {socket.gethostname()}" in said and "report it" not in said
    # The one that runs is asked to stop, and its lock goes.
    while not list((tmp_path / "out").glob("checkpoints/[0-9]*")) and other.poll() is None:
        time.sleep(0.05)
    other.terminate()
    assert other.wait(120) == 0 and not (tmp_path / "out" / LOCK_NAME).exists()
