"""Runs that are killed (SIGKILL) at random moments, and started again until they end.

    python tests/faults/killed_runs.py PRESET FOLDER POINTS SEED [OPTION ...]

A process that has made the undisturbed run forks for each start, so that a start imports nothing. Runs tell through a
pipe when a step begins and when a save does. A third of the kills come in the start, a third in a step, a third in a
save, each after a random part of what such a part took in the run that nothing disturbs. Prints a JSON object: how many
kills came in each, and the faults that were found, none where all is well.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1]))
from run_rows import course_of

from piflow_cli.app import main
from piflow_cli.students.open import find_student
from piflow_cli.students.run_checkpoints import newest_whole
from piflow_cli.training import run

WEIGHTS = "adapter/diffusion_pytorch_model.safetensors"
START, STEP, SAVE = "start", "step", "save"
Event = tuple[str, int, float]


class Telling:
    """Has runs of this process say into :attr:`pipe` what begins; into none until it is set."""

    def __init__(self) -> None:
        self.pipe: int | None = None
        run.train_step, run.save = self._telling(STEP, run.train_step), self._telling(SAVE, run.save)
        # No save depends on pictures.
        run.save_comparison = lambda *given: None

    def _telling(self, what: str, call: Callable) -> Callable:
        def told(session, *given):
            if self.pipe is not None:
                os.write(self.pipe, f"{what} {session.iteration}\n".encode())
            return call(session, *given)

        return told


class Started:
    """A run in a process of its own; ``events`` are its parts as they begin: what, the iteration, and when."""

    def __init__(self, arguments: list[str], telling: Telling) -> None:
        self.events: list[Event] = [(START, 0, time.monotonic())]
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reading)
            telling.pipe = writing
            os._exit(main(arguments))
        os.close(writing)
        self._buffer = b""

    def next_event(self) -> Event | None:
        """The next part that begins; None where the run has ended."""
        while b"\n" not in self._buffer:
            if not (read := os.read(self._reading, 1 << 12)):
                return None
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        what, iteration = line.decode().split()
        self.events.append((what, int(iteration), time.monotonic()))
        return self.events[-1]

    def wait(self) -> int:
        """The exit code, after all events."""
        while self.next_event() is not None:
            pass
        os.close(self._reading)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> int:
        """Kill it at once; its exit code."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()


def durations(events: list[Event], end: float) -> dict[str, float]:
    """The median time of each part of a run, in seconds."""
    times: dict[str, list[float]] = {START: [], STEP: [], SAVE: []}
    for (what, _, began), after in zip(events, [began for *_, began in events[1:]] + [end]):
        times[what].append(after - began)
    return {what: statistics.median(found) for what, found in times.items()}


def wait_for_moment(started: Started, what: str, count: int, delay: float) -> bool:
    """Wait until part ``what`` has begun ``count`` times, and ``delay`` seconds; False where the run ended before."""
    while what != START and count:
        event = started.next_event()
        if event is None:
            return False
        count -= event[0] == what
    time.sleep(delay)
    return True


def faults_after(folder: Path, started: Started) -> list[str]:
    """What a killed run has lost that it should have kept: all but the step in flight, with its save."""
    due = max((iteration for what, iteration, _ in started.events if what == STEP), default=0)
    checkpoint, damaged = newest_whole(folder / "checkpoints")
    found = [str(one) for one in damaged]
    if due and (checkpoint is None or int(checkpoint.name) < due):
        found.append(f"the checkpoint of {due} is lost: the newest is {checkpoint}")
    if due and (kept := find_student(folder / "adapter").facts.iterations) < due:
        found.append(f"the student of {due} is lost: it is that of {kept}")
    return found


def faults_at_end(folder: Path, whole: Path, last: str) -> list[str]:
    """Where a run that was killed and went on differs from one that was not."""
    found = [] if course_of(folder) == course_of(whole) else ["metrics"]
    for name in (f"checkpoints/{last}/training.safetensors", WEIGHTS):
        expected, got = load_file(whole / name), load_file(folder / name)
        if expected.keys() != got.keys() or not all(torch.equal(value, got[key]) for key, value in expected.items()):
            found.append(f"{name} differs")
    return found + [f"{path} is left" for path in folder.rglob(".*")]


def kill_often(preset: str, root: Path, points: int, seed: int, options: list[str]) -> dict[str, object]:
    """Kill runs at ``points`` random moments; see the head of this file."""
    draw, kills, faults = random.Random(seed), Counter(), []
    arguments = ["distill", "--teacher", preset, "--device", "cpu", "--quiet", *options]
    arguments += ["--set", "output.checkpoint_every=1", "--set", "output.preview_every=0", "--output"]
    telling = Telling()
    assert main([*arguments, str(root / "whole")]) == 0, "the run that nothing disturbs has failed"
    last = max(path.name for path in (root / "whole" / "checkpoints").iterdir())
    # What those take that have imported everything; this one must end alike too.
    timed = Started([*arguments, str(root / "timed")], telling)
    assert timed.wait() == 0, "a run in a process that was forked has failed"
    took = durations(timed.events, time.monotonic())
    faults += faults_at_end(root / "timed", root / "whole", last)
    number, folder = 0, root / "killed"
    while kills.total() < points:
        # In turn, but at random moments of each.
        what = (START, STEP, SAVE)[kills.total() % 3]
        started = Started([*arguments, str(folder)], telling)
        if wait_for_moment(started, what, draw.randint(1, 3), draw.uniform(0, took[what])):
            code = started.kill()
        else:
            code = started.wait()
        if code == -signal.SIGKILL:
            kills[what] += 1
            faults += [f"{what}, kill {kills.total()}: {fault}" for fault in faults_after(folder, started)]
        else:
            faults += [f"exit code {code}"] * (code != 0) + faults_at_end(folder, root / "whole", last)
            number += 1
            folder = root / f"killed{number}"
    code = Started([*arguments, str(folder)], telling).wait()
    faults += [f"exit code {code}"] * (code != 0) + faults_at_end(folder, root / "whole", last)
    return {"kills": kills, "runs": number + 1, "faults": faults}


if __name__ == "__main__":
    torch.set_num_threads(1)
    # A kill leaves to the system what was written; power cuts are the subject of test_power.py, and disks are slow.
    os.fsync = lambda number: None
    teacher, place, count, drawn, *rest = sys.argv[1:]
    print(json.dumps(kill_often(teacher, Path(place), int(count), int(drawn), rest)))
