"""A shard of pictures that is cut short is refused by name; what it loses later is left out, named and counted."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_imagenet import tiny_imagenet

from piflow_cli.data import labelled_data
from piflow_cli.training import run

PICTURES = 6


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w:") as tar:
        for number in range(PICTURES):
            for suffix, data in ((".png", png(number)), (".cls", str(number % 3).encode())):
                member = tarfile.TarInfo(f"{number}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture
def command(shard, tiny_vae, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(run, "save_comparison", lambda *given: None)
    preset = tiny_imagenet(tmp_path, tiny_vae, output={"preview_every": 0})
    told = ["--data", str(shard), "--iterations", "1", "--device", "cpu", "--json", "--cache", str(tmp_path / "cache")]
    return ["distill", "--teacher", str(preset), *told, "--output", str(tmp_path / "out")]


@pytest.mark.parametrize("within", [0, 100, 512, 700])
def test_one_that_is_cut_short_is_refused_by_name(cli, command, shard, tmp_path, within) -> None:
    """Between two members, in a header, behind one, and in a member."""
    with tarfile.open(shard) as tar:
        place = tar.getmember("3.png").offset
    os.truncate(shard, place + within)
    outcome = cli(*command)
    assert outcome.code == 2 and f"shards that are cut short or no uncompressed tar:\\n  {shard}: " in outcome.err
    assert not (tmp_path / "out").exists()


def test_what_it_loses_while_it_is_read_is_left_out_and_counted(cli, command, shard, monkeypatch) -> None:
    encode = labelled_data.encode_pictures

    def cut_first(*given):
        os.truncate(shard, shard.stat().st_size // 2)
        return encode(*given)

    monkeypatch.setattr(labelled_data, "encode_pictures", cut_first)
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    left_out = json.loads(outcome.out)["pictures_left_out"]
    warnings = [json.loads(line)["warning"] for line in outcome.err.splitlines()]
    [said] = [warning for warning in warnings if warning.startswith("skipped")]
    assert 0 < left_out < PICTURES and said.startswith(f"skipped {left_out} of the pictures: {left_out} unreadable (")
    assert "5.png" in said
