"""What a row of metrics.jsonl says beside the loss: that of each segment, the times of a step's parts, memory."""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st
from run_rows import MEASURED, rows_of

from piflow_cli.core.timegrid import TimeGrid
from piflow_cli.students.run_status import status_of
from piflow_cli.system.devices import peak_memory
from piflow_cli.training import rows, timing
from piflow_cli.training.segments import SegmentLosses, membership, read_losses
from piflow_cli.training.timing import PARTS, StepClock

GRIDS = st.builds(TimeGrid, st.integers(1, 6), st.sampled_from([1.0, 0.5]), st.sampled_from([1.0, 3.2]))


def run_of(cli, teacher, folder, *options: str) -> list[dict]:
    outcome = cli("distill", "--teacher", str(teacher), "--device", "cpu", "--quiet", "--output", str(folder), *options)
    assert outcome.code == 0, outcome.err
    return rows_of(folder)


@pytest.mark.parametrize("rounds", [1, 2])
def test_segments_of_trajectories_add_up_to_the_loss_by_their_lengths(cli, tiny_teacher, tmp_path, rounds) -> None:
    size = ["--set", f"optimisation.device_batch_size={8 // rounds}", "--batch-size", "8"]
    given = ["--data-free", "--nfe", "3", "--set", "policy.final_step_scale=0.5", *size]
    lengths = [upper - lower for upper, lower in pairwise(TimeGrid(3, 0.5).edges)]
    for row in run_of(cli, tiny_teacher, tmp_path / "out", *given):
        weighted = sum(length * loss for length, loss in zip(lengths, row["segment_losses"], strict=True))
        assert weighted == pytest.approx(row["loss"], rel=1e-6)
        assert len(set(row["segment_losses"])) == 3


def test_segments_of_samples_average_to_the_loss(cli, tiny_teacher, tmp_path) -> None:
    """A mean lies between its parts; a segment that no sample is in has none."""
    rows = run_of(cli, tiny_teacher, tmp_path / "out", "--nfe", "4", "--batch-size", "4")
    for row in rows:
        known = [loss for loss in row["segment_losses"] if loss is not None]
        assert len(row["segment_losses"]) == 4 and min(known) <= row["loss"] * (1 + 1e-6)
        assert row["loss"] <= max(known) * (1 + 1e-6)
    assert any(None in row["segment_losses"] for row in rows)
    (alone,) = {len(row["segment_losses"]) for row in run_of(cli, tiny_teacher, tmp_path / "one")}
    assert alone == 1
    assert all(row["segment_losses"] == [pytest.approx(row["loss"], rel=1e-6)] for row in rows_of(tmp_path / "one"))


@given(grid=GRIDS, rounds=st.integers(1, 3), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_means_of_segments_are_those_of_their_samples(grid, rounds, batch, seed) -> None:
    draw, gathered, all_losses, all_places = seeded(seed), SegmentLosses(grid), [], []
    for _ in range(rounds):
        raw, _ = grid.enclosing(1 - torch.rand(batch, generator=draw, dtype=torch.float64))
        losses = torch.rand(batch, generator=draw, dtype=torch.float64)
        members = membership(raw, grid)
        assert (members.sum(dim=0) == 1).all()
        gathered.add_samples(losses, members, rounds)
        all_losses += losses.tolist()
        all_places += [grid.edges.index(value) for value in raw.tolist()]
    loss, means = read_losses(gathered.beside(torch.tensor(0.25, dtype=torch.float64)).tolist(), grid)
    assert loss == 0.25
    for place, mean in enumerate(means):
        own = [value for value, at in zip(all_losses, all_places) if at == place]
        assert (mean is None) == (not own) and (mean is None or mean == pytest.approx(sum(own) / len(own)))


def test_times_of_the_parts_make_up_the_step(cli, tiny_teacher, tmp_path) -> None:
    rows = run_of(cli, tiny_teacher, tmp_path / "out", "--batch-size", "8")
    for row in rows:
        seconds = dict(row["seconds"])
        step = seconds.pop("step")
        assert seconds.keys() == set(PARTS) and min(seconds.values()) > 0
        # Each is rounded to four digits.
        assert sum(seconds.values()) == pytest.approx(step, rel=1e-3)
        assert row["samples_per_second"] * step == pytest.approx(8, rel=1e-3)
    peaks = [row["peak_memory"] for row in rows]
    assert peaks == sorted(peaks) and 1e7 < peaks[0] <= peak_memory(torch.device("cpu"))


def marked(clock: StepClock) -> dict[str, float]:
    """Marks of a step with two queries of the teacher, an unit of time after each other."""
    clock.enter("data")
    clock.enter("policy")
    for _ in range(2):
        with clock.during("teacher"):
            pass
    clock.enter("backward")
    clock.stop()
    return clock.seconds()


EXPECTED = {
    "step": 7.0, "data": 1.0, "student": 0.0, "teacher": 2.0, "policy": 3.0, "backward": 1.0, "optimizer": 0.0,
}  # fmt: skip


def test_a_part_goes_on_after_what_comes_amid_it(monkeypatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))
    assert marked(StepClock(torch.device("cpu"))) == EXPECTED


def test_on_a_gpu_events_are_read_once_the_step_is_over(monkeypatch) -> None:
    """Between its marks a step asks an event for nothing: no time, and no end to wait for."""
    ticks, asked = iter(range(100)), []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            assert stream == "the stream of cuda:1"
            self.tick = next(ticks)

        def elapsed_time(self, other: Event) -> float:
            asked.append(next(ticks))
            return 1000.0 * (other.tick - self.tick)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    assert marked(StepClock(torch.device("cuda:1"))) == EXPECTED
    assert min(asked) == 8


def test_the_memory_of_a_gpu_is_that_of_its_allocator(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {"cuda:1": 17}[str(device)])
    assert peak_memory(torch.device("cuda:1")) == 17


def test_the_memory_of_several_processes_is_that_of_the_fullest(monkeypatch) -> None:
    gathered: Any = SimpleNamespace(
        device=torch.device("cpu"), num_processes=2, gather=lambda own: torch.tensor([*own, 5])
    )
    holding: Any = SimpleNamespace(accelerator=gathered)
    for own, fullest in ((3, 5), (7, 7), (None, None)):
        monkeypatch.setattr(rows, "peak_memory", lambda device, own=own: own)
        assert rows._peak_memory(holding) == fullest


def test_rows_of_earlier_versions_are_read(cli, tiny_teacher, tmp_path) -> None:
    folder = tmp_path / "out"
    rows = run_of(cli, tiny_teacher, folder)
    known = status_of(folder)
    assert known.samples_per_second is not None and known.peak_memory == rows[-1]["peak_memory"]
    older = [{key: row[key] for key in row if key not in (*MEASURED, "segment_losses")} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in older))
    found = status_of(folder)
    assert (found.samples_per_second, found.peak_memory) == (None, None)
    assert found.loss == known.loss and "speed" not in found.pairs() and "speed" in known.pairs()
    (folder / "loss.png").unlink()
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(folder), "--device", "cpu", "--quiet")
    assert outcome.code == 0 and (folder / "loss.png").is_file() and rows_of(folder) == older
