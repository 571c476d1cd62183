"""Students with adapters on disk: the published format in and out, and files and bases that do not fit."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from helpers import GOLDEN, close, golden
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo import RAW, ZOO, Row, conditioning, disturb, every_family, states, student_of

from piflow_cli.adapters import load_adapter, save_adapter
from piflow_cli.errors import PiflowError, UsageError
from piflow_cli.presets import load
from piflow_cli.student import Student
from piflow_cli.teachers import family_of
from piflow_cli.teachers.packing import pack
from piflow_cli.views import root

WEIGHTS = "diffusion_pytorch_model.safetensors"
FLUX_TINY = GOLDEN / "flux-tiny"


def policy_velocity(row: Row, student: Student) -> torch.Tensor:
    with torch.no_grad():
        return student.policy(student.model, states(), RAW, conditioning(row)).velocity(0.9 * states(), 0.6 * RAW)


def saved(row: Row, folder: Path, policy: str = "gm") -> Student:
    """A student that training has moved, in ``folder``/adapter, its base in ``folder``/base."""
    row.build().save_pretrained(folder / "base" / "transformer")
    student = student_of(row, row.build(), policy)
    disturb(student)
    save_adapter(student, folder / "adapter")
    return student


@pytest.fixture(scope="module")
def foreign() -> Student:
    """The golden adapter, which the published implementation wrote."""
    return load_adapter(FLUX_TINY / "adapter", base=str(FLUX_TINY / "transformer"))


def test_the_first_output_of_the_published_adapter(foreign) -> None:
    numbers = golden("flux-tiny/outputs.safetensors")
    given = {name: numbers[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    with torch.no_grad():
        policy = foreign.policy(foreign.model, numbers["latents"], torch.ones(2, dtype=torch.float64), given)

    def tokens(parameters: torch.Tensor) -> torch.Tensor:
        batch, components = parameters.shape[:2]
        return pack(parameters.flatten(0, 1)).unflatten(0, (batch, components)).transpose(1, 2)

    close(tokens(policy.means), numbers["step0.means"])
    close(tokens(policy.logweights.log_softmax(1)), numbers["step0.logweights"])
    close(policy.logstds, numbers["step0.logstds"].flatten())


@pytest.mark.parametrize("nfe", [4, 6])
@pytest.mark.parametrize("temperature", ["auto", 1.0])
def test_the_stock_pipeline_samples_the_published_latents(foreign, nfe: int, temperature: float | str) -> None:
    numbers = golden("flux-tiny/outputs.safetensors")
    scheduler = foreign.scheduler(temperature=temperature, patch=foreign.family.token_positions)
    pipeline = foreign.family.pipeline(root(foreign.model), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt_embeds=numbers["prompt_embeds"], pooled_prompt_embeds=numbers["pooled_prompt_embeds"],
        guidance_scale=foreign.facts.guidance, height=64, width=96, latents=pack(numbers["latents"]),
        num_inference_steps=nfe, output_type="latent",
    ).images  # fmt: skip
    theirs = numbers[f"sample.nfe{nfe}.temperature_{temperature}"]
    assert ((FluxPipeline._unpack_latents(latents, 64, 96, 8) - theirs).norm() / theirs.norm()).item() < 1e-4


def test_what_an_adapter_does_not_say_comes_from_the_preset_and_is_announced() -> None:
    lines = []
    facts = load_adapter(FLUX_TINY / "adapter", base=str(FLUX_TINY / "transformer"), say=lines.append).facts
    assert lines == ["the adapter does not say how it was trained: the values of the preset flux-dev hold"]
    assert (facts.components, facts.logstd_width) == (4, 32)
    preset = load("flux-dev")
    assert (facts.nfe, facts.shift, facts.guidance, facts.final_step_scale) == (4, 3.2, preset.teacher.guidance, 0.5)
    chosen = load_adapter(FLUX_TINY / "adapter", base=str(FLUX_TINY / "transformer"), teacher="flux-dev-8nfe")
    assert chosen.facts.nfe == 8


def test_a_published_adapter_is_saved_as_it_came(foreign, tmp_path) -> None:
    save_adapter(foreign, tmp_path / "adapter")
    theirs, ours = load_file(FLUX_TINY / "adapter" / WEIGHTS), load_file(tmp_path / "adapter" / WEIGHTS)
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in theirs)
    config = json.loads((FLUX_TINY / "adapter" / "config.json").read_text())
    again = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert {key: value for key, value in again.items() if key[:2] != "_d" and key != "_name_or_path"} == {
        key: value for key, value in config.items() if key[:2] != "_d"
    }


@every_family
@pytest.mark.parametrize("policy", ["gm", "dx", "dx-poly"])
def test_a_saved_student_comes_back_as_it_was(row: Row, policy: str, tmp_path) -> None:
    student = saved(row, tmp_path, policy)
    again = load_adapter(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert again.facts == student.facts
    # The scale alpha / rank = 2 went into the second factor.
    torch.testing.assert_close(policy_velocity(row, again), policy_velocity(row, student), rtol=1e-4, atol=1e-5)
    untouched = family_of(row.family, row.guidance).call(row.build(), states(), RAW, conditioning(row))
    teacher = again.family.call(again.model.shared.view("teacher"), states(), RAW, conditioning(row))
    assert torch.equal(teacher, untouched)


PUBLISHED_CONFIG = {"flux": {"out_channels": None}, "qwen-image": {"out_channels": 16}}


@every_family
def test_names_and_config_are_the_published_ones(row: Row, tmp_path) -> None:
    saved(row, tmp_path)
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert config["_class_name"] == f"GM{row.model_name}"
    assert (config["num_gaussians"], config["logstd_inner_dim"], config["logweights_channels"]) == (3, 8, 4)
    assert PUBLISHED_CONFIG.get(row.family, {}).items() <= config.items() and "patch_size" not in config
    with safe_open(tmp_path / "adapter" / WEIGHTS, "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert json.loads(metadata["policy_config"]) == {"type": "GMFlow"}
    family, model = family_of(row.family), row.build()
    layers = ("means", "logweights", "logstds.1", "logstds.3")
    expected = {f"proj_out_{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    expected |= {f"{path}.{part}" for path in family.trained_in_full for part in ("weight", "bias")}
    expected |= {f"{path}.lora_{part}.weight" for path in family.adapter_targets(model) for part in "AB"}
    assert names == expected


def test_adapter_targets_of_flux_and_qwen_are_the_published_ones() -> None:
    golden_names = load_file(FLUX_TINY / "adapter" / WEIGHTS)
    published = {name.removesuffix(".lora_A.weight") for name in golden_names if name.endswith(".lora_A.weight")}
    assert set(family_of("flux").adapter_targets(ZOO["flux"].build())) == published
    qwen = set(family_of("qwen-image").adapter_targets(ZOO["qwen-image"].build()))
    own = {f"transformer_blocks.{block}.img_mlp.net.{part}" for block in (0, 1) for part in ("0.proj", "2")}
    text = {f"transformer_blocks.0.txt_mlp.net.{part}" for part in ("0.proj", "2")}
    time = {f"time_text_embed.timestep_embedder.linear_{part}" for part in (1, 2)}
    assert qwen == own | text | time


def test_a_dx_config_counts_the_channels_of_all_its_points(tmp_path) -> None:
    for name, channels in {"flux": 48, "qwen-image": 12, "z-image": 12}.items():
        saved(ZOO[name], tmp_path / name, "dx")
        config = json.loads((tmp_path / name / "adapter" / "config.json").read_text())
        assert (config["_class_name"], config["out_channels"]) == (ZOO[name].model_name, channels)


def test_a_dx_adapter_from_elsewhere_says_its_points_segment_and_shift(tmp_path) -> None:
    for name in ("flux", "qwen-image"):
        saved(ZOO[name], tmp_path / name, "dx")
        path = tmp_path / name / "adapter" / WEIGHTS
        policy_config = json.dumps({"type": "DX", "segment_size": 0.3, "shift": 2.5})
        save_file({f"transformer.{key}": value for key, value in load_file(path).items()}, path, {"policy_config": policy_config})
        again = load_adapter(tmp_path / name / "adapter", base=str(tmp_path / name / "base"))
        assert (again.facts.policy, again.facts.components, again.facts.segment, again.facts.shift) == ("dx", 3, 0.3, 2.5)
        assert again.facts.teacher == {"flux": "flux-dev-dx", "qwen-image": "qwen-image-dx"}[name]


def other_layers(adapter: Path) -> None:
    config = json.loads((adapter / "config.json").read_text())
    (adapter / "config.json").write_text(json.dumps(config | {"num_single_layers": 5}))


def more_layers(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    for part in "AB":
        tensors[f"transformer_blocks.9.ff.net.2.lora_{part}.weight"] = tensors[f"transformer_blocks.0.ff.net.2.lora_{part}.weight"].clone()
    with safe_open(adapter / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, adapter / WEIGHTS, metadata)


def half_a_pair(adapter: Path) -> None:
    with safe_open(adapter / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(adapter / WEIGHTS)
    del tensors["transformer_blocks.0.ff.net.2.lora_B.weight"]
    save_file(tensors, adapter / WEIGHTS, metadata)


def no_policy(adapter: Path) -> None:
    save_file(load_file(adapter / WEIGHTS), adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_layers, "num_single_layers 5, and this one has 2"),
        (more_layers, "transformer_blocks.9.ff.net.2, which the base lacks"),
        (half_a_pair, "ff.net.2.lora_B.weight is missing"),
        (no_policy, "does not say which policy it holds"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(tmp_path, damage, message) -> None:
    saved(ZOO["flux"], tmp_path)
    damage(tmp_path / "adapter")
    with pytest.raises(PiflowError, match=message) as caught:
        load_adapter(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert caught.value.hint


def test_a_base_of_another_layers_is_refused(tmp_path) -> None:
    saved(ZOO["flux"], tmp_path)
    ZOO["z-image"].build().save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="holds a ZImageTransformer2DModel, not a FluxTransformer2DModel"):
        load_adapter(tmp_path / "adapter", base=str(tmp_path / "other"))
