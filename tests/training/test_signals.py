"""What a run does with signals: it saves and stops at the next step, with the exit code that a shell gives for the
signal, or 0 where the system takes the machine away (SIGTERM, SIGUSR1)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from interruptions import interrupted_at
from own_process import piflow

from piflow_cli.training import run
from piflow_cli.training.signals import StopRequest

CODES = {"SIGINT": 130, "SIGHUP": 129, "SIGTERM": 0, "SIGUSR1": 0}


@pytest.mark.parametrize("name", CODES)
def test_the_first_signal_asks_the_run_to_save_and_stop(cli, tiny_teacher, tmp_path, monkeypatch, name) -> None:
    number = getattr(signal, name)
    monkeypatch.setattr(run, "train_step", interrupted_at(3, number))
    arguments = ["distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out")]
    outcome = cli(*arguments)
    assert outcome.code == CODES[name] and outcome.out == ""
    [said] = [line for line in outcome.err.splitlines() if "topped at iteration" in line]
    text = "topped at iteration 3 of 6; everything is saved"
    assert said == (f"S{text}: run the same command again to go on" if CODES[name] == 0 else f"Error: s{text}")
    assert (tmp_path / "out" / "checkpoints" / "0000003").is_dir() and (tmp_path / "out" / "adapter").is_dir()
    monkeypatch.undo()
    assert cli(*arguments, "--quiet").code == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_one_stops_at_once(name, monkeypatch) -> None:
    # As if a second had passed before the second of them.
    monkeypatch.setattr("piflow_cli.training.signals.SECONDS_OF_ONE_REQUEST", 0.0)
    number = getattr(signal, name)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.asked and stop.number == number
        os.kill(os.getpid(), number)
        pytest.fail("it went on")


def test_a_terminal_that_closes_may_say_so_twice() -> None:
    """A shell and the system both send SIGHUP; the end of a session adds SIGTERM to it."""
    with StopRequest() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert stop.number == signal.SIGHUP


def test_under_nohup_a_run_goes_on(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(run, "train_step", interrupted_at(3, signal.SIGHUP))
        assert cli("distill", "--teacher", str(tiny_teacher), "--quiet", "--output", str(tmp_path / "out")).code == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in StopRequest.SIGNALS]
    with StopRequest():
        assert all(signal.getsignal(number) not in before for number in StopRequest.SIGNALS)
    assert [signal.getsignal(number) for number in StopRequest.SIGNALS] == before


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def waited_for(condition, seconds: float = 180) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_sigterm_twice_in_a_moment_is_one_request() -> None:
    """A launcher that is killed sends one for each of its threads that dies."""
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked and stop.number == signal.SIGTERM


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads the list of processes from /proc")
def test_workers_save_and_end_when_their_launcher_is_killed(tiny_teacher, tmp_path) -> None:
    folder = tmp_path / "out"
    command = piflow("distill", "--teacher", str(tiny_teacher), "--device", "cpu", "--output", str(folder))
    command += ["--num-processes", "2", "--iterations", "100000", "--set", "output.checkpoint_every=50000", "--quiet"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert waited_for(
            lambda: (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").stat().st_size > 0
        )
        workers = children_of(process.pid)
        assert len(workers) == 2
        process.kill()
        process.wait()
    assert waited_for(lambda: not any(map(lives, workers)))
    assert len(list((folder / "checkpoints").glob("[0-9]*"))) == 1 and (folder / "adapter").is_dir()
    assert not (folder / "run.lock").exists()
