"""Latents become pictures by the VAE that belongs to them, a few at a time; pixels stay what they are."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL

from piflow_cli.errors import UsageError
from piflow_cli.teachers.latents import DECODED_AT_ONCE, latent_decoder, vae_identity

CPU = torch.device("cpu")


def latents(batch: int, channels: int = 4) -> torch.Tensor:
    return torch.randn(batch, channels, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_stay_what_they_are(channels):
    states = latents(2, channels)
    assert latent_decoder(None, channels, CPU)(states) is states


@pytest.mark.parametrize("shift", [None, 0.25])
def test_latents_are_scaled_back_and_decoded_a_few_at_a_time(tiny_vae, tmp_path, monkeypatch, shift):
    vae = AutoencoderKL.from_pretrained(tiny_vae, low_cpu_mem_usage=False)
    vae.register_to_config(shift_factor=shift)
    vae.save_pretrained(tmp_path / "vae")
    states = latents(2 * DECODED_AT_ONCE + 3)
    with torch.no_grad():
        expected = vae.decode(states / 0.18215 + (0.0 if shift is None else shift)).sample
    sizes, decode = [], AutoencoderKL.decode
    monkeypatch.setattr(
        AutoencoderKL, "decode", lambda self, part, **options: sizes.append(len(part)) or decode(self, part, **options)
    )
    pictures = latent_decoder(str(tmp_path), 4, CPU)(states)
    assert sizes == [DECODED_AT_ONCE, DECODED_AT_ONCE, 3]
    assert pictures.shape == (len(states), 3, 16, 16) and not pictures.requires_grad
    torch.testing.assert_close(pictures, expected, rtol=1e-4, atol=1e-5)


def test_a_vae_is_known_by_its_files(tiny_vae, tmp_path):
    assert vae_identity(None) == vae_identity("") == ""
    folder = shutil.copytree(tiny_vae, tmp_path / "vae")
    before = vae_identity(str(folder))
    assert before == vae_identity(str(folder)) != ""
    with (folder / "diffusion_pytorch_model.safetensors").open("ab") as file:
        file.write(b"more")
    assert vae_identity(str(folder)) != before


def test_low_precision_states_are_decoded_in_full(tiny_vae):
    assert latent_decoder(str(tiny_vae), 4, CPU)(latents(1).bfloat16()).dtype == torch.float32


def test_latents_without_a_vae_are_refused():
    with pytest.raises(UsageError, match="latents of 4 channels, and no VAE") as caught:
        latent_decoder(None, 4, CPU)
    assert "teacher.vae=PATH" in caught.value.hint and "--vae PATH" in caught.value.hint


def test_a_vae_of_other_latents_is_refused(tiny_vae):
    with pytest.raises(UsageError, match="shows latents of 4 channels, and the model makes 16"):
        latent_decoder(str(tiny_vae), 16, CPU)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "AutoencoderDC"}, "is of the class AutoencoderDC"),
        ({}, "no config of a VAE"),
        (None, "no config"),
    ],
)
def test_a_folder_that_is_no_vae_is_refused(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message):
        latent_decoder(str(tmp_path), 4, CPU)
