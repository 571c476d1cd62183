"""The commands of the program for a real GPU: what it measures and writes down, and one part of it on a CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import Bench
from PIL import Image


def folder_of_losses(folder: Path, losses: Sequence[float]) -> Path:
    folder.mkdir()
    lines = [{"iteration": 1, "seconds": 2.0}, *({"loss": loss} for loss in losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_losses_are_compared_by_the_largest_relative_difference(tmp_path: Path) -> None:
    one = folder_of_losses(tmp_path / "one", [2.0, -4.0])
    assert commands.furthest(one, folder_of_losses(tmp_path / "other", [2.5, -4.1])) == pytest.approx(0.25)
    assert commands.furthest(one, one) == 0.0
    # A run that ended early, or has no loss or no metrics, is no run that agrees.
    short, empty = folder_of_losses(tmp_path / "short", [2.0]), folder_of_losses(tmp_path / "empty", [])
    assert commands.furthest(one, short) is None
    assert commands.furthest(empty, empty) is None
    assert commands.furthest(one, tmp_path / "missing") is None


def folder_of_pictures(folder: Path, **levels: int) -> Path:
    folder.mkdir()
    for name, level in levels.items():
        Image.fromarray(np.full((4, 4, 3), level, dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_pictures_are_compared_by_their_names_but_for_grids(tmp_path: Path) -> None:
    one = folder_of_pictures(tmp_path / "one", a=10, b=20, grid=0)
    assert commands.apart(one, folder_of_pictures(tmp_path / "other", a=11, b=16, grid=255)) == pytest.approx(2.5)
    assert commands.apart(one, folder_of_pictures(tmp_path / "fewer", a=10)) is None
    assert commands.apart(folder_of_pictures(tmp_path / "grids", grid=0), one) is None


def test_what_could_not_be_measured_is_not_within(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "cpu", small=True)
    for found in (0.1, 0.2, float("nan"), None):
        bench.compare("losses", found, 0.1)
    assert [row["within"] for row in bench.rows] == [True, False, False, False]


def test_a_command_that_fails_or_hangs_is_a_row_with_what_it_said(tmp_path: Path, monkeypatch) -> None:
    bench = Bench(tmp_path, "cpu", small=True)
    bench.run("samples", "sample", "nowhere")
    monkeypatch.setattr(commands, "LIMIT", 0.01)
    bench.run("digits", "distill", "--teacher", "digits")
    failed, hung = bench.rows
    assert (failed["command"], failed["words"]) == ("samples", "sample nowhere")
    assert (failed["exit_code"], failed["within"]) == (2, False) and "nowhere" in failed["said"]
    assert (hung["exit_code"], hung["within"]) == (124, False) and "not done after" in hung["said"]


class Told(Bench):
    """A bench that notes commands and runs none."""

    def run(self, name: str, *words: str, device: str | None = None) -> Path:
        self.rows.append({"command": name, "words": words, "device": device or self.device})
        return self.folder / name


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_way_to_save_memory_is_compared_where_it_runs(tmp_path: Path, device: str) -> None:
    bench = Told(tmp_path, device, small=True)
    commands.digits(bench)
    commands.flux(bench)
    run = {row["command"] for row in bench.rows if "command" in row}
    compared = {row["compared"] for row in bench.rows if "compared" in row}
    assert {"host", "short", "samples", "eval", "inspection", "adapter", "pipeline"} <= run
    assert {row["device"] for row in bench.rows if row.get("command") == "host"} == {"cpu"}
    on_gpu = {"nf4", "offloaded", "offload-model", "offload-group", "offload-sequential"}
    on_gpu |= {"sampled-int8", "sampled-nf4", "sampled-fp8"}
    assert run & on_gpu == (on_gpu if device == "cuda" else set())
    # Each of them has its own comparison, and there are no others.
    assert {name for name in run & on_gpu if not any(name in what.replace("an ", "") for what in compared)} == set()
    assert all(row["difference"] is None and not row["within"] for row in bench.rows if "compared" in row)


@pytest.mark.long
def test_digits_goes_to_its_end_on_a_cpu(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(commands, "AT_ONCE", 2)
    monkeypatch.setattr(commands, "LIMIT", 600)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bench = Bench(tmp_path, "cpu", small=True)
    commands.digits(bench)
    assert [row for row in bench.rows if not row["within"]] == []
    # Two runs of one seed on one device are the same.
    assert bench.rows[-1]["difference"] == 0.0 and len(commands.losses(tmp_path / "short")) >= 1
    assert len(bench.rows) == 9
