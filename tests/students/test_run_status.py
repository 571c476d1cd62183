"""Where a run stands, by its folder: finished, running, stopped or broken."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.students.run_status import duration, status_of
from piflow_cli.system.locking import LOCK_NAME, FolderLock, LockHolder


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run of two iterations, to be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "a run"))


def lengthen(run: Path, iterations: int) -> None:
    """Let the run ask for more iterations; a file without a digest is one that was changed by hand."""
    text = (run / "run.yaml").read_text().partition("\n")[2]
    (run / "run.yaml").write_text(text.replace("iterations: 2", f"iterations: {iterations}"))


def test_a_finished_run_says_what_it_made_and_how_to_sample_it(run: Path) -> None:
    found = status_of(run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (found.state, found.iteration, found.iterations, found.process) == ("finished", 2, 2, None)
    assert found.loss == pytest.approx(sum(row["loss"] for row in rows) / 2)
    assert found.checkpoint == run / "checkpoints" / "0000002" and found.next == f"piflow sample '{run}'"


def test_a_stopped_run_says_how_to_go_on(run: Path) -> None:
    lengthen(run, 7)
    found = status_of(run)
    assert (found.state, found.iteration, found.iterations) == ("stopped", 2, 7)
    assert found.next is not None and found.next.startswith("piflow distill --teacher ")
    assert "rate" not in found.pairs() and "by" not in found.pairs()


def test_a_running_one_names_its_process_and_the_time_left(run: Path) -> None:
    lengthen(run, 12)
    with FolderLock(run):
        # It began ten seconds ago without a checkpoint, and has written its second iteration now.
        shutil.rmtree(run / "checkpoints")
        held = asdict(LockHolder.here()) | {"since": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_000_000_000))}
        (run / LOCK_NAME).write_text(json.dumps(held))
        os.utime(run / "metrics.jsonl", (1_000_000_010, 1_000_000_010))
        found = status_of(run)
        assert found.state == "running" and found.process is not None and found.process.pid == os.getpid()
        assert found.rate == pytest.approx(0.2) and found.seconds_left == pytest.approx(50)
        assert found.pairs()["left"] == "50 s"
        # To ask leaves the lock as it is.
        with pytest.raises(UsageError, match="is in use"):
            FolderLock(run).__enter__()
    assert status_of(run).state == "stopped"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"pid": 2**22 + 1}, "stopped"),  # no process of this machine has such a number
        ({"boot": "an earlier start"}, "stopped"),
        ({}, "stopped"),  # a process of that number, which holds no lock
        ({"host": "elsewhere"}, "running"),
    ],
)
def test_what_is_left_of_a_lock_does_not_run(run: Path, changes: dict, state: str) -> None:
    lengthen(run, 7)
    (run / LOCK_NAME).write_text(json.dumps(asdict(LockHolder.here()) | changes))
    assert status_of(run).state == state


@pytest.mark.parametrize(
    "name", ["adapter", "checkpoints/0000002/state.json", "checkpoints/0000002/training.safetensors"]
)
def test_a_run_that_lacks_a_part_is_broken(run: Path, name: str) -> None:
    gone = run / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    found = status_of(run)
    assert (found.state, found.why) == ("broken", f"{gone} is missing") and found.next is not None


def test_settings_that_were_damaged_are_named(run: Path) -> None:
    text = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(text.replace("nfe: 2", "nfe: 3"))
    found = status_of(run)
    assert found.state == "broken" and found.why is not None and "its digest does not match" in found.why


@pytest.mark.parametrize("text", ["", "optimisation: 3", "optimisation: {iterations: many}", "[1, 2]", "a: ["])
def test_settings_that_are_none_are_named(run: Path, text: str) -> None:
    (run / "run.yaml").write_text(text)
    found = status_of(run)
    assert found.state == "broken" and found.why is not None and "run.yaml" in found.why


def test_a_run_that_has_only_begun_has_done_nothing(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "adapter")
    (run / "metrics.jsonl").unlink()
    found = status_of(run)
    assert (found.state, found.iteration, found.loss, found.checkpoint) == ("stopped", 0, None, None)


@pytest.mark.parametrize(("path", "says"), [("nothing", "is not there"), ("", "holds no run")])
def test_what_is_no_run_is_refused(tmp_path: Path, path: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        status_of(tmp_path / path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (7500, "2 h 5 min"), (7200, "2 h"), (90_000, "1 d 1 h")],
)
def test_times_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
