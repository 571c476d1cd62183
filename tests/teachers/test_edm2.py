"""EDM2's network: closed forms of its layers, released names and numbers, its ODE, and files that are refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, seeded
from safetensors.torch import save_file
from tiny_edm2 import SIZES, released, tiny_edm2
from torch import Tensor

from piflow_cli.core.guidance import Guidance
from piflow_cli.errors import RunError, UsageError
from piflow_cli.presets.resolve import load
from piflow_cli.teachers import edm2_network as layers
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import teacher_velocity
from piflow_cli.teachers.edm2 import EDM2Family, folded
from piflow_cli.teachers.folders import outline_folder, teacher_folder

LABELS = [0, 2]
NORMAL = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)


def magnitude(x: Tensor) -> float:
    return x.square().mean().item()


def test_layers_keep_the_magnitude_of_what_they_are_given() -> None:
    a, b = (torch.randn(200, channels, 8, 8, generator=seeded(channels)) for channels in (24, 72))
    assert magnitude(layers.mp_silu(NORMAL)) == pytest.approx(1, abs=2e-3)
    assert magnitude(layers.mp_sum(a, b[:, :24], 0.3)) == pytest.approx(1, abs=1e-2)
    joined = layers.mp_cat(a, b, 0.5)
    assert magnitude(joined) == pytest.approx(1, abs=1e-2)
    # What both weigh in the sum that a convolution makes.
    assert magnitude(joined[:, :24]) * 24 == pytest.approx(magnitude(joined[:, 24:]) * 72, rel=1e-2)
    assert layers.normalised(7 * a).square().mean(dim=1) == pytest.approx(1, abs=1e-3)
    features = layers.Fourier(4096)(torch.tensor([-1.5, 0.0, 1.0]))
    assert features.square().mean(dim=1) == pytest.approx(1, abs=0.1)


def test_folded_rows_are_of_unit_length_times_their_gain() -> None:
    given = released()
    _, tensors = folded(given, SIZES)
    for name, value in tensors.items():
        if name.endswith(".weight"):
            length = 0.8 if name.endswith(("out_conv.weight", "emb_linear.weight")) else 1.0
            assert value.flatten(1).norm(dim=1) == pytest.approx(length, abs=2e-3), name
    longer = {name: 3 * value if name.endswith(".weight") else value for name, value in given.items()}
    for name, value in folded(longer, SIZES)[1].items():
        torch.testing.assert_close(value, tensors[name], rtol=5e-3, atol=1e-6)


def test_the_preset_s_network_has_the_released_names_and_size() -> None:
    """Table 3 of arXiv 2312.02696: 280 million parameters."""
    family, teacher = family_of("edm2"), load("imagenet64").teacher
    model = family.outline(outline_folder(family, teacher))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert round(sum(value.numel() for value in model.parameters()) / 1e6) == 280
    assert family.sample_shape(model) == (3, 64, 64) and family.class_count(model) == 1000
    assert shapes["emb_fourier.freqs"] == (192,) and shapes["emb_label.weight"] == (768, 1000)
    assert shapes["enc.64x64_conv.weight"] == (192, 4, 3, 3)
    assert shapes["enc.32x32_block0.conv_skip.weight"] == (384, 192, 1, 1)
    assert "enc.32x32_down.conv_skip.weight" not in shapes and "dec.32x32_block0.attn_qkv.weight" not in shapes
    assert shapes["enc.16x16_block2.attn_qkv.weight"] == (3 * 576, 576, 1, 1)
    assert shapes["dec.8x8_in0.attn_proj.weight"] == (768, 768, 1, 1) and "dec.8x8_in1.attn_proj.weight" not in shapes
    assert shapes["dec.16x16_block0.conv_res0.weight"] == (576, 768 + 576, 3, 3)
    assert shapes["dec.64x64_up.emb_linear.weight"] == (384, 768) and shapes["out_conv.weight"] == (3, 192, 3, 3)


@torch.no_grad()
def test_it_computes_what_the_published_network_does() -> None:
    """Numbers of the published implementation on the weights of `released`; the third label is no class."""
    numbers = json.loads((GOLDEN / "edm2.json").read_text())
    deviation, labels = torch.tensor(numbers["deviations"]), torch.tensor(numbers["labels"])
    x = torch.randn(3, 2, 4, 4, generator=seeded(6))
    model, family = tiny_edm2(), family_of("edm2")
    residual = model(x, deviation.log() / 4, labels)
    assert residual[:, :, 0].flatten().tolist() == pytest.approx(numbers["residual"], abs=1e-5)
    sigma, own = deviation.double() / (1 + deviation.double()), deviation[:, None, None, None]
    state = x * (own**2 + 0.25).sqrt() / (1 + own)
    velocity = family.velocity(model, state, sigma, {"class_labels": labels})
    denoised = state - sigma.float()[:, None, None, None] * velocity
    assert denoised[:, :, 0].flatten().tolist() == pytest.approx(numbers["denoised"], abs=1e-5)


@torch.no_grad()
def test_euler_steps_of_the_flow_are_those_of_edm_s_ode() -> None:
    """dx/ds = (x - D) / s at the levels of Karras et al. (arXiv 2206.00364, table 1), to the data."""
    model, family = tiny_edm2(), family_of("edm2")
    rising = torch.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), 12, dtype=torch.float64) ** 7
    levels = [*rising.flip(0).tolist(), 0.0]
    noise, told = torch.randn(2, 2, 4, 4, generator=seeded(7)), family.condition(model, LABELS)
    x, flow = 80 * noise.double(), family.parameterisation.first_state(noise).double()
    for s, following in pairwise(levels):
        length = (s**2 + 0.5**2) ** 0.5
        output = model((x / length).float(), torch.tensor([s, s]).log() / 4, told["class_labels"])
        denoised = 0.5**2 / length**2 * x + 0.5 * s / length * output
        x = x + (following - s) * (x - denoised) / s
        sigma = torch.full((2,), s / (1 + s), dtype=torch.float64)
        velocity = teacher_velocity(family, model, Guidance(), flow.float(), sigma, told)
        flow = flow + (following / (1 + following) - s / (1 + s)) * velocity
    assert flow.std() > 0.1
    torch.testing.assert_close(flow, x, rtol=0, atol=1e-5)


@torch.no_grad()
def test_no_class_is_a_column_that_is_left_out() -> None:
    model, family = tiny_edm2(), family_of("edm2")
    x, sigma = torch.randn(2, 2, 4, 4, generator=seeded()), torch.tensor([0.9, 0.5])
    told = family.condition(model, LABELS)
    found = family.call(model, x, sigma, family.unconditional(model, told))
    model.emb_label.weight.zero_()
    torch.testing.assert_close(found, family.call(model, x, sigma, told), rtol=0, atol=1e-6)


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    (folder / "config.json").write_text(json.dumps({"_class_name": "EDM2UNet", **SIZES}))
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.mark.parametrize("base", [".", "diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_dict_is_read_with_and_without_its_prefix(base: str, dtype, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    family, expected = family_of("edm2"), tiny_edm2().state_dict()
    tensors = {name.removeprefix("unet.") if base == "." else name: value for name, value in released().items()}
    folder = family.prepare(saved(tmp_path, tensors) / base, None)
    found = family.load(folder, dtype).state_dict()
    assert found.keys() == expected.keys() and family.prepare(folder, None) == folder
    for name, value in found.items():
        # Of sixteen bits, frequencies would be of other angles.
        kept = torch.float32 if name.startswith("emb_fourier") else dtype
        torch.testing.assert_close(value, expected[name].to(kept), rtol=0, atol=0)


def test_a_folder_without_a_config_is_told_by_that_of_the_preset_and_its_own_counts_first(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    family, (own, told) = family_of("edm2"), (tmp_path / "own", tmp_path / "told")
    for folder in (own, told):
        folder.mkdir()
        saved(folder, released())
    (told / "config.json").write_text(json.dumps({"_class_name": "EDM2UNet", **SIZES, "model_channels": 16}))
    assert family.load(family.prepare(own, told)).config.model_channels == SIZES["model_channels"]
    (own / "config.json").rename(told / "config.json")
    found = family.load(family.prepare(own, told)).state_dict()
    for name, value in tiny_edm2().state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    with pytest.raises(UsageError, match="there is no config of a model at"):
        family.prepare(own, None)


def test_other_tensors_are_refused_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = {**released(), "unet.enc.4x4_block9.emb_gain": torch.ones(())}
    del other["unet.dec.2x2_in1.emb_gain"]
    with pytest.raises(UsageError, match=r"dec\.2x2_in1\.emb_gain is missing; enc\.4x4_block9\.emb_gain is unknown"):
        family_of("edm2").prepare(saved(tmp_path, other), None)
    spoiled = {**released(), "unet.out_gain": torch.tensor(torch.nan)}
    with pytest.raises(RunError, match="not finite in out_gain"):
        family_of("edm2").prepare(saved(tmp_path, spoiled), None)


@pytest.mark.parametrize("sizes", [{"sample_size": 6}, {"num_blocks": 0}, {"channels_per_head": 3}])
def test_impossible_sizes_are_refused(sizes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(sizes))):
        EDM2Family().build({**SIZES, "channel_mult": [1, 2, 2], **sizes})


def test_a_pickled_program_is_refused_with_what_to_do(cli, tmp_path) -> None:
    program = tmp_path / "edm2-img64-s-1073741-0.075.pkl"
    program.write_bytes(b"\x80\x04.")
    outcome = cli("distill", "--teacher", "imagenet64", "--base", str(program), "--output", str(tmp_path / "run"))
    assert outcome.code == 2 and not (tmp_path / "run").exists()
    assert "programs, which piflow never runs" in outcome.err and "saved as the page ImageNet" in outcome.err
    assert len(outcome.err.splitlines()) == 2


def test_an_architecture_alone_asks_for_weights() -> None:
    family = family_of("edm2")
    with pytest.raises(UsageError, match="no weights in .*imagenet64") as raised:
        family.load(teacher_folder(family, load("imagenet64").teacher))
    assert "--base FILE" in str(raised.value.hint)
