"""`piflow distill` on folders of captioned videos, from the files to a student, on tiny families of videos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_vae import tiny_vae
from video_files import CAPTIONS, captioned_videos
from zoo import ZOO, zoo_preset

from piflow_cli.console import Console
from piflow_cli.data.videos import clip
from piflow_cli.presets.resolve import resolve
from piflow_cli.teachers import family_of
from piflow_cli.teachers.network_pair import NetworkPair
from piflow_cli.training import run

pytestmark = pytest.mark.usefixtures("text_encoders", "small_references")
SIZES = "data.sizes=[[96,64],[64,64]]"


def preset_of(name: str, folder: Path) -> Path:
    """A preset of a family, and its base with a VAE, in ``folder``."""
    path, _ = zoo_preset(ZOO[name], folder)
    tiny_vae(name, ZOO[name].factor).save_pretrained(folder / "base" / "vae")
    return path


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_a_batch_holds_what_the_autoencoder_makes_of_the_clips(name: str, tmp_path) -> None:
    """Wan's latent positions hold four frames, LTX-Video's eight."""
    folder = captioned_videos(tmp_path / "videos")
    given = [f"data.cache={tmp_path / 'cache'}", SIZES, "data.frames=17"]
    asked = resolve(preset_of(name, tmp_path), None, given, {"data.captioned": str(folder)})
    assert not asked.data_free
    data = run.open_session(asked, tmp_path / "out", "cpu", Console(quiet=True)).data
    family, vae = family_of(name), tiny_vae(name, ZOO[name].factor)
    for place in range(3):
        batch = data.batch(0, place, 1)
        number = CAPTIONS.index(batch.texts[0])
        size = (64, 64) if number == 2 else (96, 64)
        video = clip((folder / f"{number}.gif").read_bytes(), size, 17, family.frame_rate)
        with torch.no_grad():
            mean, std = family.encode_images(vae, video[None])
        assert batch.shape == tuple(mean.shape) and mean.shape[2] == 16 // family.frame_step + 1
        assert batch.x_0 is not None and (abs(batch.x_0 - mean) <= 6 * std + 1e-4).all()


@pytest.mark.parametrize(("name", "option"), [("wan", []), ("wan", ["--data-free"]), ("wan-a14b", [])])
def test_a_run_learns_from_videos(cli, name: str, option: list[str], tmp_path, monkeypatch) -> None:
    """Noised videos of a teacher of two networks are of both, some of them in one batch."""
    asked_of: set[tuple[bool, ...]] = set()
    below = NetworkPair._below

    def remembered(self: NetworkPair, timestep: torch.Tensor) -> list[bool]:
        found = below(self, timestep)
        asked_of.add(tuple(found))
        return found

    monkeypatch.setattr(NetworkPair, "_below", remembered)
    preset, folder = preset_of(name, tmp_path), captioned_videos(tmp_path / "videos")
    asked = ["distill", "--teacher", str(preset), "--data", str(folder), "--output", str(tmp_path / "run"), *option]
    asked += ["--set", f"data.cache={tmp_path / 'cache'}", "--set", "data.sizes=[[32,32]]", "--iterations", "4"]
    plan = json.loads(cli(*asked, "--dry-run", "--json").out)
    assert plan["data"]["source"] == f"3 captioned videos of {folder}"
    outcome = cli(*asked, "--quiet")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "adapter").is_dir()
    assert any(len({*rows}) == 2 for rows in asked_of) == (name == "wan-a14b")
    assert any((tmp_path / "cache").glob("*/latents/*")) == (not option)
