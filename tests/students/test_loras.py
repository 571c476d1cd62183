"""LoRAs of other tools: names, scales, magnitudes, and what is refused because it would be lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import FluxPipeline
from helpers import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_cases import ALPHAS, FLUX, FORMS, MODULES, RANKS, every_lora_family, factors, product, written
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo import ZOO, Row, student_of

from piflow_cli.errors import PiflowError, RunError, UsageError
from piflow_cli.students.lora_files import read_lora
from piflow_cli.students.lora_names import Naming
from piflow_cli.students.loras import add_loras, cast_adapters, layers_under_magnitudes
from piflow_cli.students.shared_base import root
from piflow_cli.teachers import family_of
from piflow_cli.weights.quantisation import store_in_fp8


def put(row: Row, path: Path, scale: float = 1.0, warn: Callable[[str], None] = lambda line: None) -> nn.Module:
    model = row.build()
    add_loras(model, [], family_of(row.family, row.guidance), [(str(path), scale)], warn)
    return model


@torch.no_grad()
def change(model: nn.Module, module: str) -> Tensor:
    """What the LoRA adds to the weight at ``module``, (out, in), or (out, in, k, k) of a convolution of stride 1."""
    layer = model.get_submodule(module)
    _, width, *kernel = layer.base_layer.weight.shape
    # One lit pixel gives back the kernel, mirrored.
    lit = nn.functional.pad(torch.eye(width).reshape(width, width, *[1] * len(kernel)), [k // 2 for k in kernel] * 2)
    return (layer(lit) - layer.base_layer(lit)).transpose(0, 1).flip(list(range(2, 2 + len(kernel))))


def rewritten(path: Path, **more: Tensor) -> Path:
    tensors = dict(read_lora(str(path)).tensors)
    save_file({**tensors, **more}, path)
    return path


@every_lora_family
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_names_counts_alpha_over_rank_times_the_product(row: Row, form: str, tmp_path) -> None:
    modules = MODULES[row.family]
    path = written(tmp_path / "lora.safetensors", row.build(), modules, FORMS[form])
    model = put(row, path, scale=0.5)
    for module, alpha, rank in zip(modules, ALPHAS, RANKS):
        down, up = factors(model, module, rank)
        torch.testing.assert_close(change(model, module), 0.5 * alpha / rank * product(down, up), rtol=1e-4, atol=1e-4)


@every_lora_family
@pytest.mark.parametrize("form", ["diffusers", "peft", "kohya"])
def test_without_an_alpha_the_product_counts_once(row: Row, form: str, tmp_path) -> None:
    modules = MODULES[row.family]
    model = put(row, written(tmp_path / "lora.safetensors", row.build(), modules, FORMS[form], alphas=False))
    for module, rank in zip(modules, RANKS):
        down, up = factors(model, module, rank)
        torch.testing.assert_close(change(model, module), product(down, up), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sqrt", [False, True])
@pytest.mark.parametrize("told", ["metadata", "adapter_config.json"])
def test_a_scale_that_stands_beside_the_tensors_counts(told: str, sqrt: bool, tmp_path) -> None:
    row = ZOO["flux"]
    config = {"r": 2, "lora_alpha": 5, "alpha_pattern": {"attn.to_k": 8}, "use_rslora": sqrt}
    path = tmp_path / ("adapter_model.safetensors" if told == "adapter_config.json" else "lora.safetensors")
    form = FORMS["peft" if told == "adapter_config.json" else "diffusers"]
    written(path, row.build(), FLUX, form, alphas=False)
    if told == "metadata":
        told_by_diffusers = json.dumps({f"transformer.{key}": value for key, value in config.items()})
        save_file(dict(read_lora(str(path)).tensors), path, {"lora_adapter_metadata": told_by_diffusers})
    else:
        (tmp_path / told).write_text(json.dumps(config))
    model = put(row, path)
    for module, rank in zip(FLUX, RANKS):
        down, up = factors(model, module, rank)
        alpha = 8 if module.endswith("attn.to_k") else 5
        torch.testing.assert_close(
            change(model, module), alpha / (rank**0.5 if sqrt else rank) * up @ down, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("pattern", [{"*.to_q": 8}, {"to_(q": 8}, ["to_q"], [], "to_q", 8, True])
@pytest.mark.parametrize("place", ["lora.safetensors", "adapter_config.json"])
def test_scales_of_no_modules_are_refused(pattern: object, place: str, tmp_path) -> None:
    path = tmp_path / ("lora.safetensors" if place == "lora.safetensors" else "adapter_model.safetensors")
    written(path, ZOO["flux"].build(), FLUX, FORMS["peft"], alphas=False)
    if path.name == place:
        told = json.dumps({"transformer.alpha_pattern": pattern})
        save_file(dict(read_lora(str(path)).tensors), path, {"lora_adapter_metadata": told})
    else:
        (tmp_path / place).write_text(json.dumps({"lora_alpha": 5, "alpha_pattern": pattern}))
    with pytest.raises(RunError, match=rf"{place} has scales of no modules: alpha_pattern ") as caught:
        put(ZOO["flux"], path)
    assert caught.value.hint == "copy it again" and "\n" not in caught.value.message


def test_fused_layers_of_the_original_flux_are_split_as_diffusers_does(tmp_path) -> None:
    """Rows of qkv are those of q, k and v in turn; the alpha counts for all three."""
    generator = seeded(0)
    down, up = torch.randn(4, 32, generator=generator), torch.randn(96, 4, generator=generator)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)},
        tmp_path / "k.safetensors",
    )
    model = put(ZOO["flux"], tmp_path / "k.safetensors")
    for number, part in enumerate(("to_q", "to_k", "to_v")):
        expected = 0.5 * up[32 * number : 32 * (number + 1)] @ down
        torch.testing.assert_close(change(model, f"transformer_blocks.0.attn.{part}"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["flux", "flux2"])
@pytest.mark.parametrize("parts", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_the_dotted_layout_of_the_original_networks_is_read(family: str, parts: tuple[str, str], tmp_path) -> None:
    """Of either pair of names, though diffusers' converters know but one of them for each network."""
    generator = seeded(0)
    down, up = torch.randn(4, 32, generator=generator), torch.randn(96, 4, generator=generator)
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    save_file({f"{name}.{part}.weight": value for part, value in zip(parts, (down, up))}, tmp_path / "b.safetensors")
    model = put(ZOO[family], tmp_path / "b.safetensors")
    torch.testing.assert_close(change(model, "transformer_blocks.0.attn.to_v"), up[64:] @ down, rtol=1e-4, atol=1e-4)


@every_lora_family
@pytest.mark.parametrize(
    "extra",
    [
        "transformer.{}.diff_b",
        "{}.lokr_w1",
        "transformer.norm_of_all.weight",
        "transformer.{}.lora_B.bias",
        "transformer.nowhere.alpha",
    ],
)
def test_a_tensor_without_a_use_is_named(row: Row, extra: str, tmp_path) -> None:
    modules = MODULES[row.family]
    name = extra.format(modules[0])
    path = rewritten(
        written(tmp_path / "lora.safetensors", row.build(), modules, FORMS["diffusers"]), **{name: torch.ones(2)}
    )
    with pytest.raises(UsageError, match="has tensors that nothing here takes: ") as caught:
        put(row, path)
    assert name in caught.value.message and caught.value.hint


def test_tensors_that_the_converters_of_diffusers_drop_are_named(tmp_path) -> None:
    """An alpha of the last layer, which they do not apply, and a layer that they do not know."""

    def name(module: str, part: str) -> str:
        return f"lora_unet_{module}.{part}"

    def pair(module: str, into: int, out: int) -> dict[str, Tensor]:
        return {
            name(module, "lora_down.weight"): torch.ones(2, into),
            name(module, "lora_up.weight"): torch.ones(out, 2),
        }

    whole = pair("double_blocks_0_img_attn_proj", 32, 32)
    for more in (
        pair("double_blocks_0_img_nothing", 32, 32),
        {name("double_blocks_0_img_attn_norm", "alpha"): torch.tensor(1.0)},
    ):
        save_file(whole | more, tmp_path / "k.safetensors")
        with pytest.raises(UsageError, match="double_blocks_0_img_(nothing|attn_norm)"):
            put(ZOO["flux"], tmp_path / "k.safetensors")
    save_file(whole | {name("double_blocks_0_img_attn_proj", "diff_b"): torch.zeros(32)}, tmp_path / "k.safetensors")
    assert change(put(ZOO["flux"], tmp_path / "k.safetensors"), "transformer_blocks.0.attn.to_out.0").max() == 2


def test_products_of_another_kind_are_named(tmp_path) -> None:
    name = f"lycoris_{FLUX[0].replace('.', '_')}.hada_w1_a"
    save_file({name: torch.ones(2, 2)}, tmp_path / "loha.safetensors")
    with pytest.raises(UsageError, match=f"holds no LoRA .*{name}"):
        put(ZOO["flux"], tmp_path / "loha.safetensors")


def test_two_adapters_for_one_layer_are_named(tmp_path) -> None:
    path = written(tmp_path / "lora.safetensors", ZOO["flux"].build(), FLUX, FORMS["state dict of peft"])
    again = FORMS["named adapter"](FLUX[0], "down")
    with pytest.raises(UsageError, match=f"holds more than one LoRA for {FLUX[0]}: "):
        put(ZOO["flux"], rewritten(path, **{again: torch.ones(2, 32)}))


def test_a_part_for_text_encoders_is_said(tmp_path) -> None:
    for prefix in (
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    ):
        path = rewritten(
            written(tmp_path / "lora.safetensors", ZOO["flux"].build(), FLUX, FORMS["diffusers"]),
            **{prefix: torch.ones(2, 2)},
        )
        lines = []
        put(ZOO["flux"], path, warn=lines.append)
        assert len(lines) == 1 and prefix in lines[0] and "left out" in lines[0]
        save_file({prefix: torch.ones(2, 2)}, path)
        with pytest.raises(UsageError, match="holds no LoRA for a FluxTransformer2DModel"):
            put(ZOO["flux"], path)


@every_lora_family
@pytest.mark.parametrize("part", ["down", "up", "alpha"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name(row: Row, part: str, value: float, tmp_path) -> None:
    modules = MODULES[row.family]
    path = written(tmp_path / "lora.safetensors", row.build(), modules, FORMS["diffusers"])
    tensors = dict(read_lora(str(path)).tensors)
    tensors[FORMS["diffusers"](modules[0], part)].flatten()[-1:] = value
    save_file(tensors, path)
    with pytest.raises(RunError) as caught:
        put(row, path)
    assert (
        caught.value.message
        == f"{path} is damaged: {FORMS['diffusers'](modules[0], part)} has values that are not finite"
    )
    assert caught.value.exit_code == 1 and caught.value.hint


@pytest.mark.parametrize(
    "kind", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "bfloat16", "float16"]
)
def test_short_floats_are_read_and_looked_at(kind: str, tmp_path) -> None:
    dtype = getattr(torch, kind)
    down, up = torch.full((1, 32), 0.5).to(dtype), torch.full((32, 1), 2.0).to(dtype)
    names = [FORMS["diffusers"](FLUX[0], part) for part in ("down", "up")]
    save_file(dict(zip(names, (down, up))), tmp_path / "lora.safetensors")
    torch.testing.assert_close(
        change(put(ZOO["flux"], tmp_path / "lora.safetensors"), FLUX[0]), torch.ones(32, 32), rtol=1e-5, atol=1e-5
    )
    up = torch.full((32, 1), float("nan")).to(dtype)
    save_file(dict(zip(names, (down, up))), tmp_path / "lora.safetensors")
    with pytest.raises(RunError, match="lora_B.weight has values that are not finite"):
        put(ZOO["flux"], tmp_path / "lora.safetensors")


# Magnitudes.


def dora(path: Path, model: nn.Module, metadata: dict | None = None, suffix: str = "lora_magnitude_vector") -> Path:
    tensors = {}
    for module, rank in zip(FLUX, RANKS):
        down, up = factors(model, module, rank)
        magnitude = 1 + torch.rand(up.shape[0], generator=seeded(9))
        tensors |= {
            f"transformer.{module}.lora_A.weight": down,
            f"transformer.{module}.lora_B.weight": up,
            f"transformer.{module}.{suffix}": magnitude,
        }
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    "suffix", ["lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"]
)
def test_a_dora_sets_the_norms_of_the_sums_rows(suffix: str, tmp_path) -> None:
    """W' = m (W + BA) / |W + BA|, row by row (arXiv 2402.09353, equation 5)."""
    row = ZOO["flux"]
    model = put(row, dora(tmp_path / "dora.safetensors", row.build(), suffix=suffix))
    for module, rank in zip(FLUX, RANKS):
        down, up = factors(model, module, rank)
        layer = model.get_submodule(module)
        whole = layer.base_layer.weight.detach() + up @ down
        magnitude = 1 + torch.rand(up.shape[0], generator=seeded(9))
        expected = magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True)
        with torch.no_grad():
            found = (layer(torch.eye(layer.in_features)) - layer.base_layer.bias).T
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {
            "lora_adapter_metadata": json.dumps(
                {
                    "transformer.use_dora": True,
                    "transformer.r": 4,
                    "transformer.lora_alpha": 4,
                    "transformer.target_modules": list(FLUX),
                    "transformer.rank_pattern": {FLUX[0]: 2, FLUX[2]: 3},
                    "transformer.alpha_pattern": {FLUX[0]: 2, FLUX[2]: 3},
                }
            )
        },
    ],
)
def test_a_dora_has_the_effect_that_diffusers_gives(metadata: dict | None, tmp_path) -> None:
    row = ZOO["flux"]
    path = dora(tmp_path / "dora.safetensors", row.build(), metadata)
    theirs, ours = row.build(), put(row, path)
    FluxPipeline(None, None, None, None, None, None, theirs).load_lora_weights(str(tmp_path), weight_name=path.name)
    with torch.no_grad():
        # Without metadata diffusers takes one alpha for all ranks; with it both have the same scales.
        for module in FLUX if metadata else FLUX[1:2]:
            x = torch.randn(3, ours.get_submodule(module).in_features, generator=seeded(1))
            torch.testing.assert_close(
                ours.get_submodule(module)(x), theirs.get_submodule(module)(x), rtol=1e-4, atol=1e-4
            )


def test_magnitudes_that_would_be_lost_are_named(tmp_path) -> None:
    row = ZOO["flux"]
    path = rewritten(
        written(tmp_path / "a.safetensors", row.build(), FLUX, FORMS["diffusers"]),
        **{f"transformer.{FLUX[0]}.dora_scale": torch.ones(32, 1)},
    )
    with pytest.raises(UsageError, match=f"DoRA by another tool than peft: transformer.{FLUX[0]}.dora_scale"):
        put(row, path)
    path = rewritten(
        written(tmp_path / "b.safetensors", row.build(), FLUX, FORMS["diffusers"]),
        **{f"transformer.{FLUX[0]}.lora_magnitude_vector": torch.ones(32)},
    )
    with pytest.raises(RunError, match=f"without all of its magnitudes: {FLUX[1]}"):
        put(row, path)
    path = written(tmp_path / "c.safetensors", row.build(), FLUX, FORMS["diffusers"])
    save_file(
        dict(read_lora(str(path)).tensors), path, {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})}
    )
    with pytest.raises(RunError, match="without all of its magnitudes"):
        put(row, path)


def test_a_dora_lies_on_a_base_in_8_bits(tmp_path) -> None:
    """Its layers alone stay in bfloat16: the sum of weight and product is taken between two calls of the layer."""
    row = ZOO["flux"]
    model, family = row.build().to(torch.bfloat16), family_of("flux", 3.5)
    add_loras(model, [], family, [(str(dora(tmp_path / "dora.safetensors", row.build())), 1.0)])
    cast_adapters(model, torch.bfloat16)
    x = torch.randn(3, 32, generator=seeded(1)).bfloat16()
    with torch.no_grad():
        before = model.get_submodule(FLUX[0])(x)
        store_in_fp8(model, family.kept_whole(model) | layers_under_magnitudes(model))
        torch.testing.assert_close(model.get_submodule(FLUX[0])(x), before, rtol=0, atol=0)
    assert model.transformer_blocks[0].attn.to_v.weight.dtype == torch.float8_e4m3fn


# On students.


def test_a_lora_lies_beside_a_students_own_and_on_its_own_copies(tmp_path) -> None:
    row = ZOO["flux"]
    student = student_of(row, row.build())
    path = tmp_path / "lora.safetensors"
    down, up = torch.randn(2, 32, generator=seeded(1)), torch.randn(64, 2, generator=seeded(2))
    config = json.dumps(
        {"transformer.r": 2, "transformer.lora_alpha": 2, "transformer.alpha_pattern": {"norm_out.linear": 6}}
    )
    save_file(
        {"transformer.norm_out.linear.lora_A.weight": down, "transformer.norm_out.linear.lora_B.weight": up},
        path,
        {"lora_adapter_metadata": config},
    )
    model = root(student.model)
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    add_loras(model, [student.model.role], student.family, [(str(path), 1.0)])
    torch.testing.assert_close(change(model, "norm_out.linear.variants.student"), 3.0 * up @ down, rtol=1e-4, atol=1e-4)
    after = student.model.state_dict()
    assert all(
        torch.equal(
            after[
                name.replace("norm_out.linear.", "norm_out.linear.base_layer.")
                if name.startswith("norm_out.linear.")
                else name
            ],
            value,
        )
        for name, value in before.items()
    )


def test_half_a_pair_and_factors_of_other_ranks_are_refused(tmp_path) -> None:
    name = FORMS["diffusers"]
    cases = {
        "has no up factor": {name(FLUX[0], "down"): torch.ones(2, 32)},
        r"shapes \(2, 32\) and \(32, 3\)": {
            name(FLUX[0], "down"): torch.ones(2, 32),
            name(FLUX[0], "up"): torch.ones(32, 3),
        },
        r"shapes \(2, 32, 1, 1\) and \(32, 2, 1, 1\)": {
            name(FLUX[0], "down"): torch.ones(2, 32, 1, 1),
            name(FLUX[0], "up"): torch.ones(32, 2, 1, 1),
        },
        "the alpha of .* is": {
            name(FLUX[0], "down"): torch.ones(2, 32),
            name(FLUX[0], "up"): torch.ones(32, 2),
            name(FLUX[0], "alpha"): torch.ones(3),
        },
        "scale that is no number": None,
    }
    for message, tensors in cases.items():
        path = tmp_path / "lora.safetensors"
        if tensors is None:
            told = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": "many"})}
            save_file({name(FLUX[0], "down"): torch.ones(2, 32), name(FLUX[0], "up"): torch.ones(32, 2)}, path, told)
        else:
            save_file(tensors, path)
        with pytest.raises(PiflowError, match=message) as caught:
            put(ZOO["flux"], path)
        assert caught.value.hint


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.characters(codec="ascii", exclude_characters="\n"), max_size=40),
    st.sampled_from([*FORMS.values()]),
    st.sampled_from(["down", "up", "alpha"]),
)
def test_a_name_is_read_back_in_every_form_and_strange_ones_never_are(name: str, form: Callable, part: str) -> None:
    naming = Naming(FLUX)
    assert all(
        naming.target(form(module, part)).module == module and naming.target(form(module, part)).part == part
        for module in FLUX
    )
    assert naming.target(f"{name}?.lora_A.weight") is None


# Where LoRAs are.


def test_a_folder_or_repository_with_several_files_asks_for_one(tmp_path, monkeypatch) -> None:
    row = ZOO["flux"]
    for name in ("one", "two"):
        written(tmp_path / f"{name}.safetensors", row.build(), FLUX, FORMS["diffusers"])
    with pytest.raises(UsageError, match="holds 2 .safetensors files") as caught:
        put(row, tmp_path)
    assert f"{tmp_path}/one.safetensors" in caught.value.hint
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "list_repo_files",
        lambda self, repository: ["a.safetensors", "b.safetensors", "in/c.safetensors"],
    )
    with pytest.raises(UsageError, match="me/lora holds 2 .safetensors files") as caught:
        put(row, Path("me/lora"))
    assert "--lora me/lora/a.safetensors" in caught.value.hint
    written(tmp_path / "pytorch_lora_weights.safetensors", row.build(), FLUX, FORMS["diffusers"])
    assert change(put(row, tmp_path), FLUX[0]).any()
