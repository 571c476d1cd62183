"""One flipped bit in a file of a run: the next start says so and stops, or mends
what it can make again; nothing is silent.

The suite flips some bits of every file. By hand, hundreds of each:

    PIFLOW_FAULTS=all python -m pytest -n 0 tests/faults/test_flips.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from piflow_cli.training import run

FLIPS = 300 if os.environ.get("PIFLOW_FAULTS") == "all" else 3
FILES = (
    "run.yaml", "data.sha256", "versions.json", "metrics.jsonl", "checkpoints/0000004/state.json",
    "checkpoints/0000004/training.safetensors",
    "adapter/config.json", "adapter/diffusion_pytorch_model.safetensors",
)  # fmt: skip
WEIGHTS = "adapter/diffusion_pytorch_model.safetensors"


@pytest.fixture
def finished(cli, tiny_teacher, tmp_path, monkeypatch) -> tuple[list[str], Path]:
    """The command of a run without pictures, which no reader asks for, and the folder it has made."""
    monkeypatch.setattr(run, "save_comparison", lambda *given: None)
    monkeypatch.setattr(run, "draw_loss", lambda *given: None)
    folder = tmp_path / "run"
    command = [
        "distill",
        "--teacher",
        str(tiny_teacher),
        "--iterations",
        "4",
        "--set",
        "output.preview_every=0",
        "--output",
        str(folder),
    ]
    assert cli(*command, "--quiet").code == 0
    return command, folder


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_said_or_mended(cli, finished, tmp_path, name) -> None:
    command, folder = finished
    whole, draw = tmp_path / "whole", random.Random(name)
    shutil.copytree(folder, whole)
    size = (whole / name).stat().st_size
    for _ in range(FLIPS):
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        place, bit = draw.randrange(size), draw.randrange(8)
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1 << bit
        (folder / name).write_bytes(data)
        outcome = cli(*command)
        where = (name, place, bit, outcome.err)
        assert "report it" not in outcome.err and "Traceback" not in outcome.err, where
        if outcome.code:
            said = outcome.err[outcome.err.index("Error:") :].splitlines()
            assert outcome.code in (1, 2) and len(said) <= 3, where
            continue
        # It went on: then all is as it was, and what a person may have relied on was said.
        assert all(
            torch.equal(value, load_file(folder / WEIGHTS)[key]) for key, value in load_file(whole / WEIGHTS).items()
        ), where
        if name == "metrics.jsonl":
            assert "metrics.jsonl is damaged" in outcome.err, where
        elif name.startswith("adapter"):
            assert "is written again" in outcome.err, where
            assert (folder / "adapter/config.json").read_bytes() == (whole / "adapter/config.json").read_bytes(), where
        elif name.endswith("state.json"):
            # Made again, it tells of rows whose times are others; the digest over it follows.
            assert made_of(folder / name) == made_of(whole / name), where
        else:
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), where


def made_of(record: Path) -> dict:
    """What the record of a checkpoint says, without what depends on how long its steps took."""
    content = json.loads(record.read_text())
    return {key: value for key, value in content.items() if key not in ("metrics", "sha256")}


def test_what_is_left_out_of_a_run_is_said_or_made_again(cli, finished) -> None:
    command, folder = finished
    shutil.rmtree(folder / "adapter")
    outcome = cli(*command)
    assert outcome.code == 0 and "is written again" in outcome.err and (folder / WEIGHTS).is_file()
    (folder / WEIGHTS).unlink()
    assert cli(*command).code == 0 and (folder / WEIGHTS).is_file()
    assert "is written again" not in cli(*command).err
