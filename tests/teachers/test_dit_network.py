from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from piflow_cli.teachers.dit_network import DiT, position_table, sinusoid

SMALL = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 3,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_classes": 5,
}


def randomised(seed: int = 0, **overrides) -> DiT:
    """A small model without the zeros of its initialisation, so that every part reaches the output."""
    model = DiT(**{**SMALL, **overrides})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(batch: int = 3, channels: int = 3, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(batch, channels, size, size, generator=generator)
    return states, torch.linspace(0.1, 1.0, batch), torch.arange(batch) % 5


def test_parameter_names_are_those_of_the_published_checkpoints():
    layers = ["pos_embed.proj", "emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2"]
    parts = ["norm1.linear", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"]
    layers += [f"transformer_blocks.{n}.{part}" for n in range(2) for part in parts] + ["proj_out_1", "proj_out_2"]
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(DiT(**SMALL).state_dict()) == expected | {"emb.class_embedder.embedding_table.weight"}


def test_the_defaults_are_dit_xl_2_of_imagenet():
    with torch.device("meta"):
        model = DiT()
    state = model.state_dict()
    assert len(model.transformer_blocks) == 28
    assert state["emb.class_embedder.embedding_table.weight"].shape == (1001, 1152)
    assert state["emb.timestep_embedder.linear_1.weight"].shape == (1152, 256)
    assert state["transformer_blocks.27.norm1.linear.weight"].shape == (6 * 1152, 1152)
    assert state["proj_out_1.weight"].shape == (2 * 1152, 1152)
    assert state["proj_out_2.weight"].shape == (16, 1152)


@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 3), channels=st.integers(1, 4), patch=st.sampled_from([1, 2, 4]), grid=st.integers(1, 4))
def test_output_has_the_shape_of_the_input(batch, channels, patch, grid):
    model = randomised(sample_size=patch * grid, patch_size=patch, in_channels=channels)
    states, sigma, labels = inputs(batch, channels, patch * grid)
    assert model(states, sigma, labels).shape == states.shape


def test_a_new_model_predicts_zero_and_its_blocks_are_the_identity():
    model = DiT(**SMALL)
    states, sigma, labels = inputs()
    assert torch.equal(model(states, sigma, labels), torch.zeros_like(states))
    tokens = torch.randn(3, 16, 16)
    assert torch.equal(model.transformer_blocks[0](tokens, torch.randn(3, 16)), tokens)


def test_sinusoid_against_its_closed_form():
    row = sinusoid(torch.tensor([3.0]))[0]
    assert row.shape == (256,)
    for i in (0, 1, 64, 127):
        angle = 3.0 * math.exp(-math.log(10_000.0) * i / 128)
        assert row[i].item() == pytest.approx(math.cos(angle), abs=1e-5)
        assert row[128 + i].item() == pytest.approx(math.sin(angle), abs=1e-5)


def test_the_network_is_fed_time_scale_times_sigma():
    states, sigma, labels = inputs()
    scaled, plain = randomised(time_scale=1000.0), randomised(time_scale=1.0)
    torch.testing.assert_close(scaled(states, sigma, labels), plain(states, 1000 * sigma, labels))
    assert not torch.allclose(scaled(states, sigma, labels), plain(states, sigma, labels), atol=1e-3)


@pytest.mark.parametrize(("grid", "channels"), [(4, 128), (16, 1152), (3, 8)])
def test_positions_equal_those_of_diffusers(grid, channels):
    reference = get_2d_sincos_pos_embed(channels, grid, base_size=grid, output_type="pt")
    torch.testing.assert_close(position_table(grid, channels)[0], reference.float(), atol=1e-5, rtol=0)


def test_the_null_class_has_a_row_of_its_own_and_the_next_label_has_none():
    model = randomised()
    states, sigma, labels = inputs()
    null = torch.full_like(labels, 5)
    assert (model(states, sigma, null) - model(states, sigma, labels)).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    with pytest.raises(IndexError):
        model(states, sigma, null + 1)


def test_samples_of_a_batch_do_not_meet():
    model = randomised()
    states, sigma, labels = inputs()
    whole = model(states, sigma, labels)
    for i in range(len(states)):
        torch.testing.assert_close(model(states[i : i + 1], sigma[i : i + 1], labels[i : i + 1])[0], whole[i])


def test_checkpointing_changes_no_gradient():
    states, sigma, labels = inputs()
    gradients = []
    for checkpointed in (False, True):
        model = randomised().train()
        calls = []
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.transformer_blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model(states, sigma, labels).square().mean().backward()
        assert len(calls) == (2 if checkpointed else 1)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


class CodedProjection(nn.Module):
    """Emit, for every token, its row number, then the place (ph, pw, c) of each value in the token."""

    def __init__(self, patch: int, channels: int):
        super().__init__()
        self.patch, self.channels = patch, channels

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, _ = tokens.shape
        values = torch.arange(self.patch**2 * self.channels).float()
        return values + 1000 * torch.arange(count).float()[:, None].expand(batch, count, 1)


def test_out_channels_widens_the_output_and_rows_are_ph_pw_c():
    model = randomised()
    model.proj_out_2, model.out_channels = CodedProjection(patch=2, channels=7), 7
    output = model(*inputs())
    assert output.shape == (3, 7, 8, 8)
    for c, y, x in [(0, 0, 0), (6, 0, 1), (3, 1, 0), (2, 5, 6), (6, 7, 7)]:
        token, inside = (y // 2) * 4 + x // 2, ((y % 2) * 2 + x % 2) * 7 + c
        assert output[1, c, y, x].item() == 1000 * token + inside


def test_proj_out_1_is_fed_the_activated_embedding():
    model = randomised()
    states, sigma, labels = inputs()
    tapped = []
    model.proj_out_1.register_forward_pre_hook(lambda module, arguments: tapped.append(arguments[0]))
    model(states, sigma, labels)
    embedding = model.emb(sigma, labels, torch.float32)
    assert torch.equal(tapped[0], nn.functional.silu(embedding))


def test_proj_out_1_is_shift_then_scale():
    model = randomised()
    states, sigma, labels = inputs()
    with torch.no_grad():
        model.proj_out_1.weight.zero_()
        model.proj_out_1.bias.copy_(torch.cat([torch.full((16,), 0.5), torch.full((16,), -1.0)]))
    constant = model.proj_out_2(torch.full((16,), 0.5))
    expected = constant.reshape(2, 2, 3).permute(2, 0, 1).repeat(1, 4, 4).expand(3, -1, -1, -1)
    torch.testing.assert_close(model(states, sigma, labels), expected)


def test_save_and_load_return_the_same_model(tmp_path):
    model = randomised().eval()
    model.save_pretrained(tmp_path)
    again = DiT.from_pretrained(tmp_path)
    assert {key: again.config[key] for key in SMALL} == SMALL
    assert torch.equal(again(*inputs()), model(*inputs()))


@pytest.mark.parametrize(
    ("overrides", "named"), [({"patch_size": 3}, "sample_size"), ({"attention_head_dim": 1}, "width")]
)
def test_impossible_sizes_are_refused(overrides, named):
    with pytest.raises(ValueError, match=named):
        DiT(**{**SMALL, **overrides})
