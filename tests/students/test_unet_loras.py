"""LoRAs of U-Nets: stock pipelines judge what is fused, of names in the layouts of diffusers and of the original."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers import seeded
from lora_cases import FORMS, factors, product
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo import ZOO, Row

from piflow_cli.errors import PiflowError, UsageError
from piflow_cli.students.lora_files import read_lora
from piflow_cli.students.loras import add_loras, factors_of
from piflow_cli.students.teacher_loras import fuse, teacher_loras
from piflow_cli.teachers import family_of

SCALE, RANK, ALPHA = 0.5, 2, 3.0
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1."
# By names of the tiny networks, those of the original layout, which has its own numbers for blocks and layers.
ORIGINAL = {
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.resnets.0.time_emb_proj": "input_blocks.1.0.emb_layers.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.3.0.skip_connection",
    "down_blocks.1.attentions.0.proj_in": "input_blocks.3.1.proj_in",
    f"{ATTENTION}to_q": "input_blocks.3.1.transformer_blocks.0.attn1.to_q",
    f"{ATTENTION}to_out.0": "input_blocks.3.1.transformer_blocks.0.attn1.to_out.0",
    "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": "middle_block.1.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v": "output_blocks.1.1.transformer_blocks.0.attn2.to_v",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "conv_out": "out.2",
    "time_embedding.linear_2": "time_embed.2",
}
every_unet = pytest.mark.parametrize("row", [ZOO["sd15"], ZOO["sdxl"]], ids=["sd15", "sdxl"])


def lora(path: Path, model: nn.Module, names: Mapping[str, str], form: str, alpha: bool = True) -> Path:
    """A LoRA for each module of ``names``, under the name that it has there."""
    tensors = {}
    for module, name in names.items():
        down, up = factors(model, module, RANK)
        tensors |= {FORMS[form](name, "down"): down, FORMS[form](name, "up"): up}
        if alpha:
            tensors[FORMS[form](name, "alpha")] = torch.tensor(ALPHA)
    save_file(tensors, path)
    return path


def placed(row: Row, path: Path, model: nn.Module | None = None, warn=lambda line: None):
    family = family_of(row.family, row.guidance)
    return factors_of(row.build() if model is None else model, family, read_lora(str(path)), warn)


def fused(row: Row, path: Path, folder: Path) -> dict[str, Tensor]:
    model, family = row.build(), family_of(row.family, row.guidance)
    model.save_pretrained(folder / "unet")
    fuse(model, family, folder, teacher_loras([f"{path}:{SCALE}"]))
    return model.state_dict()


def by_diffusers(row: Row, path: Path) -> dict[str, Tensor]:
    """The weights that the stock pipeline fuses."""
    model, family = row.build(), family_of(row.family, row.guidance)
    pipeline = family.pipeline(model, None)
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    pipeline.fuse_lora(components=["unet"], lora_scale=SCALE)
    pipeline.unload_lora_weights()
    return model.state_dict()


def check_the_same(row: Row, path: Path, tmp_path: Path) -> None:
    ours, theirs, before = fused(row, path, tmp_path), by_diffusers(row, path), row.build().state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5, msg=name)
    changed = {name.removesuffix(".weight") for name in ours if not torch.equal(ours[name], before[name])}
    assert changed == ORIGINAL.keys()


@every_unet
@pytest.mark.parametrize(("form", "alpha"), [("kohya", True), ("diffusers' U-Nets", False)])
def test_the_stock_pipeline_fuses_the_same_weights(row: Row, form: str, alpha: bool, tmp_path) -> None:
    names = {module: module for module in ORIGINAL}
    check_the_same(row, lora(tmp_path / "style.safetensors", row.build(), names, form, alpha), tmp_path)


def test_the_stock_pipeline_fuses_the_same_weights_of_the_original_layout(tmp_path) -> None:
    row = ZOO["sdxl"]
    check_the_same(row, lora(tmp_path / "style.safetensors", row.build(), ORIGINAL, "kohya"), tmp_path)


@every_unet
@pytest.mark.parametrize("form", ["kohya", "comfyui", "whole checkpoint", "old diffusers"])
def test_the_original_layout_is_read_in_every_form(row: Row, form: str, tmp_path) -> None:
    """Though diffusers knows one of them, and reads it for SDXL alone."""
    path = lora(tmp_path / "style.safetensors", row.build(), ORIGINAL, form)
    found = placed(row, path)
    assert found.keys() == ORIGINAL.keys()
    for module, one in found.items():
        down, up = factors(row.build(), module, RANK)
        assert torch.equal(one.down, down) and torch.equal(one.up, up) and one.alpha == ALPHA, module


def test_blocks_of_two_digits_are_not_taken_for_those_of_one(tmp_path) -> None:
    """Stable Diffusion 1.5 has twelve blocks on either side."""
    model = UNet2DConditionModel(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, attention_head_dim=2)
    names = {
        f"up_blocks.{block // 3}.attentions.{block % 3}.proj_out": f"output_blocks.{block}.1.proj_out"
        for block in range(3, 12)
    } | {
        # No attention is before it.
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.1.conv",
        "down_blocks.0.attentions.0.proj_in": "input_blocks.1.1.proj_in",
        "down_blocks.3.resnets.0.conv1": "input_blocks.10.0.in_layers.2",
    }
    for form in ("kohya", "lycoris"):
        path = lora(tmp_path / "style.safetensors", model, names, form)
        assert placed(ZOO["sd15"], path, model).keys() == names.keys()


@every_unet
def test_attention_processors_of_old_diffusers_are_read(row: Row, tmp_path) -> None:
    model, tensors = row.build(), {}
    for layer in ("to_q", "to_out"):
        down, up = factors(model, f"{ATTENTION}{layer if layer == 'to_q' else 'to_out.0'}", RANK)
        name = f"unet.{ATTENTION}processor.{layer}_lora."
        tensors |= {f"{name}down.weight": down, f"{name}up.weight": up}
    save_file(tensors, tmp_path / "old.safetensors")
    assert placed(row, tmp_path / "old.safetensors").keys() == {f"{ATTENTION}to_q", f"{ATTENTION}to_out.0"}


def test_a_scale_in_the_metadata_of_diffusers_counts(tmp_path) -> None:
    row, module = ZOO["sdxl"], f"{ATTENTION}to_q"
    path = lora(tmp_path / "style.safetensors", row.build(), {module: module}, "diffusers' U-Nets", alpha=False)
    told = json.dumps({"unet.r": RANK, "unet.lora_alpha": 5, "text_encoder.lora_alpha": 7})
    save_file(dict(read_lora(str(path)).tensors), path, {"lora_adapter_metadata": told})
    assert placed(row, path)[module].alpha == 5


def test_factors_without_pixels_fit_a_convolution_of_one(tmp_path) -> None:
    row, module = ZOO["sd15"], "down_blocks.1.attentions.0.proj_in"
    down, up = (torch.randn(shape, generator=seeded(0)) for shape in ((RANK, 16), (16, RANK)))
    name = FORMS["kohya"]
    save_file({name(module, "down"): down, name(module, "up"): up}, tmp_path / "style.safetensors")
    (weight, before) = (
        state[f"{module}.weight"]
        for state in (fused(row, tmp_path / "style.safetensors", tmp_path), row.build().state_dict())
    )
    torch.testing.assert_close(weight - before, SCALE * (up @ down)[..., None, None], rtol=1e-4, atol=1e-5)


def test_a_convolution_of_a_student_takes_a_lora_twice(tmp_path) -> None:
    """Two files for one layer, of which the second finds the adapters of the first there."""
    row, module = ZOO["sd15"], "down_blocks.0.downsamplers.0.conv"
    path = lora(tmp_path / "style.safetensors", row.build(), {module: module}, "kohya")
    model = row.build()
    add_loras(model, [], family_of(row.family, row.guidance), [(str(path), 1.0), (str(path), -0.25)])
    layer = model.get_submodule(module)
    before = layer.base_layer.weight.clone()
    layer.merge()
    expected = 0.75 * ALPHA / RANK * product(*factors(row.build(), module, RANK))
    torch.testing.assert_close(layer.base_layer.weight - before, expected, rtol=1e-4, atol=1e-5)


@every_unet
@pytest.mark.parametrize("original", [False, True], ids=["diffusers", "original"])
def test_parts_for_text_encoders_are_left_out_and_said(row: Row, original: bool, tmp_path) -> None:
    names = ORIGINAL if original else {module: module for module in ORIGINAL}
    path = lora(tmp_path / "style.safetensors", row.build(), names, "kohya")
    tensors = dict(read_lora(str(path)).tensors)
    for encoder in ("te", "te1", "te2"):
        tensors[f"lora_{encoder}_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = torch.ones(2, 2)
    save_file(tensors, path)
    lines: list[str] = []
    assert placed(row, path, warn=lines.append).keys() == ORIGINAL.keys()
    (line,) = lines
    assert "is for the text encoders too: lora_te" in line and "is left out" in line


def pair(name: str, down: tuple[int, ...], up: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"{name}.lora_down.weight": torch.ones(down), f"{name}.lora_up.weight": torch.ones(up)}


CONV, QUERY = "lora_unet_input_blocks_1_0_in_layers_2", "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"
REFUSED = {
    "a linear layer's": (
        pair(CONV, (2, 8), (8, 2)),
        r"down_blocks.0.resnets.0.conv1 have shapes \(2, 8\) and \(8, 2\), which are no LoRA of a convolution of 3 x 3",
    ),
    "another kernel": (pair(CONV, (2, 8, 1, 1), (8, 2, 1, 1)), "no LoRA of a convolution of 3 x 3"),
    "a kernel in the second": (pair(CONV, (2, 8, 3, 3), (8, 2, 3, 3)), "no LoRA of a convolution of 3 x 3"),
    "a convolution's": (pair(QUERY, (2, 16, 1, 1), (16, 2, 1, 1)), "attn1.to_q have .* no LoRA of a linear layer"),
    "a vector": (pair(QUERY, (16,), (16, 16)), r"have shapes \(16,\) and \(16, 16\), which are no LoRA of a linear"),
    "other ranks": (pair(CONV, (2, 8, 3, 3), (8, 3, 1, 1)), "no LoRA of a convolution of 3 x 3"),
    "no rank": (pair(CONV, (0, 8, 3, 3), (8, 0, 1, 1)), "no LoRA of a convolution of 3 x 3"),
    "another width in": (pair(CONV, (2, 9, 3, 3), (8, 2, 1, 1)), "resnets.0.conv1 is 9 wide in it, and 8 here"),
    "another width out": (pair(CONV, (2, 8, 3, 3), (7, 2, 1, 1)), "resnets.0.conv1 is 7 wide in it, and 8 here"),
    "half": ({f"{CONV}.lora_down.weight": torch.ones(2, 8, 3, 3)}, "down_blocks.0.resnets.0.conv1 has no up factor"),
    "another model": (
        pair(CONV.replace("_1_", "_7_"), (2, 8, 3, 3), (8, 2, 1, 1)),
        "it has weights for lora_unet_input_blocks_7_0_in_layers_2, which this UNet2DConditionModel lacks",
    ),
    "no block": (pair("lora_unet_input_blocks_x_1", (2, 8), (8, 2)), "weights for lora_unet_input_blocks_x_1, which"),
    "a norm": (
        pair("lora_unet_conv_norm_out", (2, 8), (8, 2)), "has a LoRA for conv_norm_out, a GroupNorm, and only linear"
    ),
}  # fmt: skip
KINDS = {
    "a core between": ({f"{CONV}.lora_mid.weight": torch.ones(2, 2, 3, 3)}, f"nothing here takes: {CONV}.lora_mid"),
    "LoHa": ({f"{CONV}.hada_w1_a": torch.ones(2, 2)}, f"nothing here takes: {CONV}.hada_w1_a"),
    "LoKr": ({f"{CONV}.lokr_w1": torch.ones(2, 2)}, f"nothing here takes: {CONV}.lokr_w1"),
    "OFT": ({f"{CONV}.oft_blocks": torch.ones(2, 2)}, f"nothing here takes: {CONV}.oft_blocks"),
    "DoRA": ({f"{CONV}.dora_scale": torch.ones(8)}, f"is a DoRA by another tool than peft: {CONV}.dora_scale"),
    "biases": ({f"{CONV}.diff_b": torch.ones(8)}, f"nothing here takes: {CONV}.diff_b"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_factors_that_do_not_fit_are_refused(case: str, tmp_path) -> None:
    tensors, message = REFUSED[case]
    save_file(tensors, tmp_path / "style.safetensors")
    with pytest.raises(PiflowError, match=message) as caught:
        placed(ZOO["sdxl"], tmp_path / "style.safetensors")
    assert caught.value.hint


def test_a_convolution_in_groups_takes_none(tmp_path) -> None:
    """Each of its channels sees but some of those below, which a product of two factors does not say."""
    module = "transformer_blocks.0.ff.conv_depth"
    save_file(pair(module, (2, 1, 3, 3), (160, 2, 1, 1)), tmp_path / "style.safetensors")
    with pytest.raises(
        UsageError, match=f"a LoRA for {module}, a Conv2d, and only linear layers and convolutions without"
    ):
        placed(ZOO["sana"], tmp_path / "style.safetensors")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a LoRA"])
@pytest.mark.parametrize("case", KINDS)
def test_what_is_no_plain_lora_is_refused_by_its_name(case: str, beside: bool, tmp_path) -> None:
    tensors, message = KINDS[case]
    whole = pair("lora_unet_middle_block_1_proj_in", (2, 16), (16, 2)) if beside else {}
    save_file(whole | tensors, tmp_path / "style.safetensors")
    with pytest.raises(UsageError, match=message if beside else next(iter(tensors))) as caught:
        placed(ZOO["sdxl"], tmp_path / "style.safetensors")
    assert caught.value.hint
