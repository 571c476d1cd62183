"""The last line of a plan: whether the run fits this machine, and what to type where it does not."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from zoo import ZOO, zoo_preset

from piflow_cli.training.dry_run.room import LIBRARIES, USABLE


@pytest.fixture
def plan(cli, tmp_path, monkeypatch):
    """A plan of a small FLUX on a machine with so many bytes of memory, and of disk, that are free."""
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")

    def planned(*options: str, memory: int = 10**12, disk: int = 10**12) -> dict:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=disk))
        data = ["--prompts", str(tmp_path / "prompts.txt"), "--set", "data.resolution=64", "--device", "cpu"]
        folders = ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "out")]
        outcome = cli("distill", "--teacher", str(path), *data, *folders, *options, "--dry-run", "--json")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    return planned


def test_what_a_plan_says_to_type_fits(plan) -> None:
    whole = plan()
    assert whole["verdict"].startswith("fits: ") and whole["machine"]["memory free"] == 10**12
    free = LIBRARIES + whole["memory"]["peak"] - 1
    tight = plan(memory=free)
    said, typed = tight["verdict"].split(": ", 2)[0], tight["verdict"].split("type ")[1].partition(", which")[0]
    assert said == "does not fit" and "gradient_checkpointing" in typed
    assert plan(*shlex.split(typed), memory=free)["verdict"].startswith("fits: ")
    # The whole of the memory is enough, and one byte less is not.
    assert plan(memory=free + 1)["verdict"].startswith("fits: ")


def test_a_batch_is_halved_as_long_as_distances_have_samples_to_compare(
    cli, tiny_teacher, tmp_path, monkeypatch
) -> None:
    def plan(memory: int, *options: str) -> dict:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))
        command = ["distill", "--teacher", str(tiny_teacher), "--set", "imitation.energy=0.1", "--device", "cpu"]
        outcome = cli(*command, *options, "--output", str(tmp_path), "--dry-run", "--json")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    lightest = ["--set", "optimisation.gradient_checkpointing=true", "--set", "imitation.states_per_query=1"]
    lightest += ["--set", "optimisation.device_batch_size=2"]
    free = LIBRARIES + plan(10**12, *lightest)["memory"]["peak"]
    assert f"type {shlex.join(lightest)}, which takes" in plan(free)["verdict"]
    assert "no setting makes it fit" in plan(free - 1)["verdict"]


def test_where_nothing_helps_a_plan_says_so(plan) -> None:
    assert "no setting makes it fit" in plan(memory=LIBRARIES)["verdict"]


def test_disk_is_held_against_what_is_free(plan) -> None:
    whole = plan()
    (disk,) = [part for name, part in whole["machine"].items() if name.startswith("disk of ")]
    parts = whole["disk"]
    # While a checkpoint or the student is saved, the one before it is still there.
    saved = parts["checkpoints kept"] + parts["checkpoint"] + 2 * parts["student"]
    assert disk["needed"] == saved + parts["cache, in all, at most"]
    assert plan(disk=disk["needed"])["verdict"].startswith("fits: ")
    short = plan(disk=disk["needed"] - 1)["verdict"]
    assert short.startswith("does not fit: ") and "--output DIR" in short


def test_a_plan_says_which_prompts_are_used(plan) -> None:
    few = ["--iterations", "1", "--batch-size", "2"]
    whole, limited = plan(*few), plan(*few, "--limit", "2")
    assert whole["data"]["source"].startswith("3 prompts of ") and limited["data"]["source"].startswith("2 prompts of ")
    assert whole["data"]["used"] == "2 of the 3 prompts; --limit 2 encodes no more than that"
    assert limited["data"]["used"] == "all, each 1.0 times"
    each = "cache, each text, at most"
    assert whole["disk"]["cache, in all, at most"] - limited["disk"]["cache, in all, at most"] == whole["disk"][each]


def test_a_run_that_does_not_fit_is_warned_of(cli, tiny_teacher, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--iterations", "1", "--output", str(tmp_path / "out"))
    assert outcome.code == 0 and "Warning: this run does not fit: " in outcome.err


def test_a_gpu_is_asked_what_is_free_on_it(plan, monkeypatch) -> None:
    """Of what is free on it, a tenth is left to libraries and fragments."""
    peak = plan()["memory"]["peak"]
    monkeypatch.setattr("piflow_cli.training.dry_run.plan.choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Imagined 24")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    verdicts = []
    for free in (math.ceil(peak / USABLE), math.floor(peak / USABLE) - 1):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 24 * 10**9))
        verdicts.append(plan()["verdict"])
    assert verdicts[0].startswith("fits: ") and "(Imagined 24)" in verdicts[0]
    assert verdicts[1].startswith("does not fit: ")
    assert "type --set optimisation.gradient_checkpointing=true" in verdicts[1]
