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
from piflow_cli.students.run_checkpoints import write_record
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


T = 1_000_000_000  # seconds since 1970


@pytest.mark.parametrize(
    ("marks", "end", "rate"),
    [
        ({10: T + 20, 20: T + 30}, T + 40, 1.0),
        # The first ten took longer: something was loaded. Half an hour was lost on the way.
        ({10: T + 20, 20: T + 1820}, T + 1830, 1.0),
        ({10: T + 20, 20: T + 30}, T + 30 + 86_400, 1.0),
        ({10: T + 86_420, 20: T + 30}, T + 40, 1.0),  # set back by a day
        ({10: T - 500, 20: T - 400}, T - 300, None),  # and before all that is there
        ({}, T - 300, None),
    ],
)
def test_a_clock_that_was_set_meanwhile_leaves_another_span_or_none(
    run: Path, marks: dict[int, int], end: int, rate
) -> None:
    lengthen(run, 60)
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(row | {"iteration": number}) + "\n" for number in range(1, 31))
    )
    with FolderLock(run):
        shutil.rmtree(run / "checkpoints")
        for number, moment in marks.items():
            (run / "checkpoints" / f"{number:07d}").mkdir(parents=True)
            os.utime(run / "checkpoints" / f"{number:07d}", (moment, moment))
        held = asdict(LockHolder.here()) | {"since": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(T))}
        (run / LOCK_NAME).write_text(json.dumps(held))
        os.utime(run / "metrics.jsonl", (end, end))
        found = status_of(run)
    assert found.state == "running" and found.rate == (None if rate is None else pytest.approx(rate))


def test_a_run_in_another_time_zone_has_the_same_rate(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container counts in UTC, and who asks about its run does not."""
    lengthen(run, 60)
    with FolderLock(run):
        shutil.rmtree(run / "checkpoints")
        began = LockHolder.here().began
        assert began is not None and abs(began - time.time()) < 60
        os.utime(run / "metrics.jsonl", (T + 10, T + 10))
        for zone, since in (("UTC0", "2001-09-09 01:46:40+0000"), ("XXX-5", "2001-09-09 01:46:40+0000")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            (run / LOCK_NAME).write_text(json.dumps(asdict(LockHolder.here()) | {"since": since}))
            assert status_of(run).rate == pytest.approx(0.2)
    monkeypatch.undo()
    time.tzset()


def test_a_lock_whose_time_is_none_makes_no_rate(run: Path) -> None:
    held = asdict(LockHolder.here()) | {"host": "elsewhere", "boot": "another", "since": "lately"}
    (run / LOCK_NAME).write_text(json.dumps(held))
    assert (status_of(run).state, status_of(run).rate) == ("running", None)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"pid": 2**22 + 1}, "stopped"),  # no process of this machine has such a number
        ({"boot": "an earlier start"}, "stopped"),
        ({}, "stopped"),  # a process of that number, which holds no lock
        ({"host": "elsewhere", "boot": "another"}, "running"),
        ({"host": "container", "pid": 1}, "stopped"),  # of this machine, whose locks all containers share
    ],
)
def test_what_is_left_of_a_lock_does_not_run(run: Path, changes: dict, state: str) -> None:
    lengthen(run, 7)
    (run / LOCK_NAME).write_text(json.dumps(asdict(LockHolder.here()) | changes))
    assert status_of(run).state == state


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"host": "container", "pid": 2**22 + 1}])
def test_a_run_in_a_container_runs_whatever_its_process_is_called_there(run: Path, changes: dict) -> None:
    with FolderLock(run):
        (run / LOCK_NAME).write_text(json.dumps(asdict(LockHolder.here()) | changes))
        assert status_of(run).state == "running"


def test_a_run_without_its_student_is_broken(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    found = status_of(run)
    assert (found.state, found.why) == ("broken", f"{run / 'adapter'} is missing") and found.next is not None


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("diffusion_pytorch_model.safetensors", None, "is missing"),
        ("diffusion_pytorch_model.safetensors", 100, "corrupt or cut short"),
        ("config.json", None, "is missing"),
    ],
)
def test_a_run_whose_student_cannot_be_opened_is_broken(run: Path, name: str, size: int | None, reason: str) -> None:
    """It was called finished, and sampling it failed."""
    path = run / "adapter" / name
    path.unlink() if size is None else os.truncate(path, size)
    found = status_of(run)
    assert found.state == "broken" and found.why is not None and name in found.why and reason in found.why


def test_a_checkpoint_that_goes_meanwhile_is_passed_over(run: Path) -> None:
    with FolderLock(run):
        (run / "checkpoints" / "0000001").symlink_to(run / "nowhere")
        assert status_of(run).state == "running"


def damage(path: Path, way: str) -> None:
    if way == "missing":
        path.unlink()
    elif way == "cut short":
        os.truncate(path, path.stat().st_size // 2)
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("way", ["missing", "cut short", "one bit"])
@pytest.mark.parametrize("name", ["state.json", "training.safetensors"])
def test_a_damaged_checkpoint_is_named_with_the_one_to_go_on_from(run: Path, name: str, way: str) -> None:
    """Alone it breaks the run; beside an earlier whole one the run has only stopped."""
    newest = run / "checkpoints" / "0000002"
    damage(newest / name, way)
    found = status_of(run)
    assert found.state == "broken" and found.why is not None and found.why.startswith(f"the checkpoint {newest} is")
    # Without it a start is refused, since it would begin again without a word.
    assert found.next is not None and found.next.endswith(" --no-resume")
    older = run / "checkpoints" / "0000001"
    shutil.copytree(newest, older)
    (older / "training.safetensors").write_bytes(b"tensors")
    write_record(older, 1, None)
    found = status_of(run)
    assert (found.state, found.checkpoint) == ("stopped", older)
    assert len(found.damaged) == 1 and found.damaged[0].startswith("0000002: ")
    assert found.pairs()["damaged"] == found.damaged[0] and found.record()["damaged"] == list(found.damaged)


def test_a_checkpoint_that_was_set_aside_is_named(run: Path) -> None:
    (run / "checkpoints" / "0000003.damaged").mkdir()
    assert status_of(run).damaged == ("0000003.damaged was set aside",) and status_of(run).state == "finished"


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
