"""What checkpoints, metrics and previews cost beside the steps of the digits run.

    python tests/benchmarks/endurance.py [--json FILE] [--iterations N] [--small]

One run of piflow_cli.training on the CPU, with a checkpoint and a preview every six iterations, in which each part is
timed where the loop calls it: medians, by the clock and by the processor time of this process. The ratios are those of
the preset as it ships: a step a hundred times, against one checkpoint, one preview and ten reports of metrics, which
is one every two seconds where a step takes 0.2 s. On a
machine that is busy with other work the ratio of processor times is the fair one; it leaves out the wait for the disk,
which the ratio by the clock has.

What a step takes for its own clock and for the losses of its segments is the median of differences between steps with
and without them, in turn in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import machine, write_json

from piflow_cli.console import SILENT, Console, format_table
from piflow_cli.core.imitation import data_dependent_loss
from piflow_cli.presets.resolve import load, resolve
from piflow_cli.training import loop, run, showing
from piflow_cli.training.opening import open_session

RESULT = Path(__file__).parent / "results" / "endurance.json"
PARTS: dict[str, tuple[Any, str]] = {
    "step": (run, "train_step"),
    "checkpoint": (run, "save"),
    "preview": (run, "_preview"),
    "metrics": (showing.Showing, "report"),
}
EVERY = 6
STEPS = 100  # between two checkpoints and two previews of the preset
TIMES = {"checkpoint": 1, "preview": 1, "metrics": 10}
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}


def timed(call: Callable, times: list[dict[str, float]]) -> Callable:
    """``call``, whose duration by each clock goes to ``times``."""

    def wrapped(*given):
        began = {name: clock() for name, clock in CLOCKS.items()}
        result = call(*given)
        times.append({name: clock() - began[name] for name, clock in CLOCKS.items()})
        return result

    return wrapped


def measured(iterations: int, batch_size: int | None, folder: Path) -> dict[str, list[dict[str, float]]]:
    """The durations of each part of a run in ``folder``."""
    times: dict[str, list[dict[str, float]]] = {part: [] for part in PARTS}
    preset = load("digits")
    optimisation = replace(preset.optimisation, iterations=iterations)
    if batch_size is not None:
        optimisation = replace(optimisation, batch_size=batch_size, device_batch_size=batch_size)
    output = replace(preset.output, checkpoint_every=EVERY, preview_every=EVERY)
    preset = replace(preset, optimisation=optimisation, output=output)
    with contextlib.ExitStack() as patched, mock.patch.object(showing, "SECONDS", 0.0):
        for part, (owner, name) in PARTS.items():
            patched.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), times[part])))
        run.distill(preset, folder, "cpu", False, Console(quiet=True))
    return times


class Unwatched:
    """A clock of a step that looks at nothing."""

    def __init__(self, device: torch.device) -> None:
        pass

    def enter(self, part: str) -> None:
        pass

    def during(self, part: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def stop(self) -> None:
        pass


def watching(pairs: int, batch_size: int | None, folder: Path) -> dict[str, Any]:
    """What a step takes for its clock and the losses of its segments, as a row."""
    sizes = [] if batch_size is None else [f"optimisation.batch_size={batch_size}"]
    session = open_session(resolve("digits", None, sizes, {}), folder, "cpu", SILENT)
    times: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(pairs + 1):
        for watched, found in times.items():
            with contextlib.nullcontext() if watched else unwatched():
                timed(loop.train_step, found)(session)
    row: dict[str, Any] = {"part": "watching", "calls": pairs}
    for name, share in (("seconds", "share"), ("cpu_seconds", "cpu_share")):
        without, with_ = ([one[name] for one in times[watched][1:]] for watched in (False, True))
        row[name] = statistics.median(more - less for more, less in zip(with_, without, strict=True))
        row[share] = row[name] / statistics.median(without)
    return row


@contextlib.contextmanager
def unwatched() -> Generator[None]:
    """Steps without a clock, and without the losses of their segments."""
    with (
        mock.patch.object(loop, "StepClock", Unwatched),
        mock.patch.object(loop, "data_dependent_loss", lambda *given: data_dependent_loss(*given[:-1])),
    ):
        yield


def rows_of(times: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians of each part but for the first call, which allocates, and shares of the time of the steps."""
    median = {
        part: {name: statistics.median(one[name] for one in found[1:] or found) for name in CLOCKS}
        for part, found in times.items()
    }
    rows: list[dict[str, Any]] = [{"part": part, "calls": len(times[part]), **values, "share": None, "cpu_share": None}
            for part, values in median.items()]  # fmt: skip
    for row in rows:
        if (count := TIMES.get(row["part"])) is not None:
            row["share"] = count * row["seconds"] / (STEPS * median["step"]["seconds"])
            row["cpu_share"] = count * row["cpu_seconds"] / (STEPS * median["step"]["cpu_seconds"])
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--iterations", type=int, default=36)
    parser.add_argument("--small", action="store_true", help="tiny batches, to see that it runs")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        iterations, batch_size = (2 * EVERY, 4) if given.small else (given.iterations, None)
        rows = rows_of(measured(iterations, batch_size, Path(folder) / "run"))
        watched = watching(iterations, batch_size, Path(folder))
        rows.append({name: watched[name] for name in rows[0]})
    print(format_table(rows, tuple(rows[0])))
    record = {"benchmark": "endurance", **machine(torch.device("cpu")), "results": rows}
    write_json(given.json, record)


if __name__ == "__main__":
    main()
