"""Students with adapters on disk: the published format in and out, and files and bases that do not fit."""

import json
import math
import shutil

import pytest
import torch
from adapter_files import WEIGHTS, saved
from diffusers import FluxPipeline
from helpers import GOLDEN, close, golden
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo import RAW, ZOO, Row, conditioning, every_family, states, zoo_preset

from piflow_cli.errors import RunError, UsageError
from piflow_cli.presets.resolve import available, load
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.open import find_student, open_student
from piflow_cli.students.scheduler import final_temperature
from piflow_cli.students.shared_base import root
from piflow_cli.students.student import Student
from piflow_cli.teachers import family_of
from piflow_cli.teachers.packing import pack

FLUX_TINY = GOLDEN / "flux-tiny"


def policy_velocity(row: Row, student: Student) -> torch.Tensor:
    with torch.no_grad():
        return student.policy(student.model, states(row), RAW, conditioning(row)).velocity(0.9 * states(row), 0.6 * RAW)


@pytest.fixture(scope="module")
def published_student() -> Student:
    """The golden adapter, which the published implementation wrote."""
    return open_student(FLUX_TINY / "adapter", base=str(FLUX_TINY / "transformer"))


def test_the_first_output_of_the_published_adapter(published_student) -> None:
    numbers = golden("flux-tiny/outputs.safetensors")
    given = {name: numbers[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    with torch.no_grad():
        policy = published_student.policy(
            published_student.model, numbers["latents"], torch.ones(2, dtype=torch.float64), given
        )

    def tokens(parameters: torch.Tensor) -> torch.Tensor:
        batch, components = parameters.shape[:2]
        return pack(parameters.flatten(0, 1)).unflatten(0, (batch, components)).transpose(1, 2)

    close(tokens(policy.means), numbers["step0.means"])
    close(tokens(policy.logweights.log_softmax(1)), numbers["step0.logweights"])
    close(policy.logstds, numbers["step0.logstds"].flatten())


@pytest.mark.parametrize("nfe", [4, 6])
@pytest.mark.parametrize("temperature", ["auto", 1.0])
def test_the_stock_pipeline_samples_the_published_latents(
    published_student, nfe: int, temperature: float | str
) -> None:
    numbers = golden("flux-tiny/outputs.safetensors")
    scheduler = published_student.scheduler(temperature=temperature, patch=published_student.family.token_positions)
    pipeline = published_student.family.pipeline(root(published_student.model), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt_embeds=numbers["prompt_embeds"], pooled_prompt_embeds=numbers["pooled_prompt_embeds"],
        guidance_scale=published_student.facts.guidance, height=64, width=96, latents=pack(numbers["latents"]),
        num_inference_steps=nfe, output_type="latent",
    ).images  # fmt: skip
    theirs = numbers[f"sample.nfe{nfe}.temperature_{temperature}"]
    assert ((FluxPipeline._unpack_latents(latents, 64, 96, 8) - theirs).norm() / theirs.norm()).item() < 1e-4


def test_what_an_adapter_does_not_say_comes_from_the_preset_and_is_announced() -> None:
    lines = []
    facts = open_student(FLUX_TINY / "adapter", base=str(FLUX_TINY / "transformer"), say=lines.append).facts
    assert lines == ["the student does not say how it was trained: the values of the preset flux-dev hold"]
    assert (facts.components, facts.logstd_width) == (4, 32)
    preset = load("flux-dev")
    assert (facts.nfe, facts.shift, facts.guidance, facts.final_step_scale) == (4, 3.2, preset.teacher.guidance, 0.5)
    chosen = open_student(FLUX_TINY / "adapter", base=str(FLUX_TINY / "transformer"), teacher="flux-dev-8nfe")
    assert chosen.facts.nfe == 8


@pytest.mark.parametrize(
    ("name", "preset", "nfe"),
    [
        ("gmflux_k8_piid_4step", "flux-dev", 4),
        ("gmflux_k8_piid_8step", "flux-dev-8nfe", 8),
        ("gmflux_k8_piid_6step", "flux-dev", 6),
    ],
)
def test_a_published_folder_tells_the_evaluations(tmp_path, name: str, preset: str, nfe: int) -> None:
    shutil.copytree(FLUX_TINY / "adapter", tmp_path / name)
    facts = find_student(tmp_path / name).facts
    assert (facts.teacher, facts.nfe, facts.segment) == (preset, nfe, pytest.approx(1 / (nfe - 0.5)))
    assert final_temperature(facts.sampling_temperature, nfe) == pytest.approx({4: 0.3, 6: 0.5, 8: 0.7}[nfe])


def test_a_published_adapter_is_saved_as_it_came(published_student, tmp_path) -> None:
    save_adapter(published_student, tmp_path / "adapter")
    theirs, ours = load_file(FLUX_TINY / "adapter" / WEIGHTS), load_file(tmp_path / "adapter" / WEIGHTS)
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in theirs)
    config = json.loads((FLUX_TINY / "adapter" / "config.json").read_text())
    again = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert {key: value for key, value in again.items() if key[:2] != "_d" and key != "_name_or_path"} == {
        key: value for key, value in config.items() if key[:2] != "_d"
    }


@every_family
@pytest.mark.parametrize("policy", ["gm", "dx", "dx-poly", "momentum"])
def test_a_saved_student_comes_back_as_it_was(row: Row, policy: str, tmp_path) -> None:
    student = saved(row, tmp_path, policy)
    again = open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert again.facts == student.facts
    # The scale alpha / rank = 2 went into the second factor.
    torch.testing.assert_close(policy_velocity(row, again), policy_velocity(row, student), rtol=1e-4, atol=1e-5)
    untouched = family_of(row.family, row.guidance).call(row.build(), states(row), RAW, conditioning(row))
    teacher = again.family.call(again.model.shared.view("teacher"), states(row), RAW, conditioning(row))
    assert torch.equal(teacher, untouched)


PUBLISHED_CONFIG = {
    "flux": {"out_channels": None},
    "flux-cfg": {"out_channels": None, "guidance_embeds": False},
    "flux2": {"out_channels": None, "guidance_embeds": True},
    "qwen-image": {"out_channels": 16},
}


@every_family
def test_names_and_config_are_the_published_ones(row: Row, tmp_path) -> None:
    saved(row, tmp_path)
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert config["_class_name"] == f"GM{row.model_name}"
    positions = row.head_site.patch
    assert (config["num_gaussians"], config["logstd_inner_dim"], config["logweights_channels"]) == (3, 8, positions)
    told = PUBLISHED_CONFIG.get(row.family, {})
    assert all(config[key] == value for key, value in told.items()) and not (told and "patch_size" in config)
    with safe_open(tmp_path / "adapter" / WEIGHTS, "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert json.loads(metadata["policy_config"]) == {"type": "GMFlow"}
    family, model = family_of(row.family), row.build()
    layers = ("means", "logweights", "logstds.1", "logstds.3")
    heads = {f"proj_out_{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    # Each of several networks has its own.
    expected = {start + name for start in family.networks(model) for name in heads}
    expected |= {
        f"{path}.{part}" for path in family.trained_in_full for part, _ in model.get_submodule(path).named_parameters()
    }
    expected |= {f"{path}.lora_{part}.weight" for path in family.adapter_targets(model) for part in "AB"}
    assert names == expected


@pytest.mark.parametrize("family", ["flux", "qwen-image"])
def test_a_momentum_adapter_is_laid_out_as_arcflow_has_it(tmp_path, family: str) -> None:
    """formats.md: rows (k - 1, ph, pw) of the log-gammas in place of the
    log-stds, and Arc before the name of the class."""
    saved(ZOO[family], tmp_path, "momentum")
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert config["_class_name"] == f"Arc{ZOO[family].model_name}"
    assert (config["num_gaussians"], config["logweights_channels"]) == (3, 4) and "logstd_inner_dim" not in config
    with safe_open(tmp_path / "adapter" / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["policy_config"]) == {"type": "ArcFlow"}
    rows = {
        name: len(value)
        for name, value in load_file(tmp_path / "adapter" / WEIGHTS).items()
        if name.endswith(".weight")
    }
    heads = {
        name.removeprefix("proj_out_").removesuffix(".weight"): count
        for name, count in rows.items()
        if name.startswith("proj_out_")
    }
    assert heads == {"means": 3 * 4 * 4, "logweights": 3 * 4, "loggamma": 2 * 4}


@pytest.mark.parametrize(("family", "preset"), [("flux", "flux-dev-momentum"), ("qwen-image", "qwen-image-momentum")])
@pytest.mark.parametrize("told", [{"policy_config": json.dumps({"type": "ArcFlow"})}, {"format": "pt"}])
def test_an_arcflow_adapter_from_elsewhere_samples_as_published(
    tmp_path, family: str, preset: str, told: dict[str, str]
) -> None:
    student = saved(ZOO[family], tmp_path, "momentum")
    path = tmp_path / "adapter" / WEIGHTS
    save_file({f"transformer.{key}": value for key, value in load_file(path).items()}, path, told)
    again = open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert (again.facts.policy, again.facts.components, again.facts.teacher) == ("momentum", 3, preset)
    # As the authors' own scripts sample: two evaluations of equal length at shift 3.2.
    assert (again.facts.nfe, again.facts.shift, again.facts.final_step_scale) == (2, 3.2, 1.0)
    torch.testing.assert_close(
        policy_velocity(ZOO[family], again), policy_velocity(ZOO[family], student), rtol=1e-4, atol=1e-5
    )


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
        save_file(
            {f"transformer.{key}": value for key, value in load_file(path).items()},
            path,
            {"policy_config": policy_config},
        )
        again = open_student(tmp_path / name / "adapter", base=str(tmp_path / name / "base"))
        assert (again.facts.policy, again.facts.components, again.facts.segment, again.facts.shift) == (
            "dx",
            3,
            0.3,
            2.5,
        )
        assert again.facts.teacher == {"flux": "flux-dev-dx", "qwen-image": "qwen-image-dx"}[name]


@pytest.mark.parametrize(
    ("family", "folder"), [("qwen-image", "dxqwen_p10_piid_4step"), ("flux", "dxflux_p10_piid_4step")]
)
def test_a_published_polynomial_opens_and_samples_without_a_segment(tmp_path, family: str, folder: str) -> None:
    """The polynomial adapters say {"mode": "polynomial", "shift": 3.2, "type":
    "DX"}: powers of raw time span no segment."""
    row = ZOO[family]
    student = saved(row, tmp_path, "dx-poly")
    path = (tmp_path / "adapter").rename(tmp_path / folder) / WEIGHTS
    policy_config = json.dumps({"mode": "polynomial", "shift": 3.2, "type": "DX"})
    save_file(
        {f"transformer.{key}": value for key, value in load_file(path).items()}, path, {"policy_config": policy_config}
    )
    again = open_student(tmp_path / folder, base=str(tmp_path / "base"))
    facts, preset = again.facts, load({"flux": "flux-dev-dx", "qwen-image": "qwen-image-dx"}[family])
    assert (facts.policy, facts.components, facts.nfe, facts.shift, facts.teacher) == (
        "dx-poly",
        3,
        4,
        3.2,
        preset.name,
    )
    assert (facts.final_step_scale, facts.substeps) == (0.5, 128)
    ours, theirs = (
        sample_student(one, states(row), conditioning(row), steps=4, substeps=128) for one in (again, student)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_grid_that_says_no_segment_spans_all_of_raw_time(tmp_path) -> None:
    """The default of the published class."""
    saved(ZOO["flux"], tmp_path, "dx")
    path = tmp_path / "adapter" / WEIGHTS
    save_file(load_file(path), path, {"policy_config": json.dumps({"type": "DX", "shift": 3.2})})
    assert find_student(tmp_path / "adapter").facts.segment == 1.0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"segment_size": 0.3}, "cannot have shift None"),
        ({"segment_size": None, "shift": 3.2}, "cannot have segment_size None"),
        ({"segment_size": "0.3", "shift": 0}, "cannot have segment_size '0.3' and shift 0"),
        ({"segment_size": math.nan, "shift": math.inf}, "cannot have segment_size nan and shift inf"),
    ],
)
def test_a_dx_adapter_whose_segment_or_shift_cannot_be_is_refused(tmp_path, said: dict, message: str) -> None:
    saved(ZOO["flux"], tmp_path, "dx")
    path = tmp_path / "adapter" / WEIGHTS
    save_file(load_file(path), path, {"policy_config": json.dumps({"type": "DX", **said})})
    with pytest.raises(RunError, match=message):
        find_student(tmp_path / "adapter")


@every_family
@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_loading_draws_no_random_numbers(row: Row, policy: str, tmp_path) -> None:
    """Weights that a file brings are not initialised first: of FLUX.1 that takes seconds, and memory."""
    saved(row, tmp_path, policy)
    before = torch.get_rng_state()
    open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert torch.equal(torch.get_rng_state(), before)


@every_family
@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_a_single_file_without_config_or_metadata_is_measured_against_its_base(row: Row, policy: str, tmp_path) -> None:
    student = saved(row, tmp_path, policy)
    tensors = {f"transformer.{name}": value for name, value in load_file(tmp_path / "adapter" / WEIGHTS).items()}
    told = {
        "gm": {"type": "GMFlow"},
        "momentum": {"type": "ArcFlow"},
        "dx": {"type": "DX", "segment_size": student.facts.segment, "shift": student.facts.shift},
    }[policy]
    save_file(tensors, tmp_path / "student.safetensors", {"policy_config": json.dumps(told)})
    # No preset is shipped for FLUX without an input for guidance, and some have a shift of their own; the width of this
    # one is another than the student's.
    own, _ = zoo_preset(row, tmp_path)
    own.write_text(own.read_text().replace("logstd_width: 8", "logstd_width: 16"))
    name = {"flux": "flux-dev", "flux2": "flux2-dev"}.get(row.family, row.family)
    teacher = name if name in available() and load(name).policy.shift == student.facts.shift else str(own)
    again = open_student(tmp_path / "student.safetensors", base=str(tmp_path / "base"), teacher=teacher)
    assert (again.facts.components, again.facts.shift) == (3, student.facts.shift)
    assert policy != "dx" or again.facts.segment == student.facts.segment
    assert (again.facts.logstd_width == 8) == (policy == "gm")
    torch.testing.assert_close(policy_velocity(row, again), policy_velocity(row, student), rtol=1e-4, atol=1e-5)


def test_a_single_file_that_does_not_say_its_teacher_asks_for_it(tmp_path) -> None:
    saved(ZOO["flux"], tmp_path)
    save_file(
        load_file(tmp_path / "adapter" / WEIGHTS),
        tmp_path / "student.safetensors",
        {"policy_config": json.dumps({"type": "GMFlow"})},
    )
    with pytest.raises(UsageError, match="does not say how to sample it") as caught:
        open_student(tmp_path / "student.safetensors", base=str(tmp_path / "base"))
    assert "--teacher NAME" in caught.value.hint


def test_shards_are_read_like_one_file(tmp_path) -> None:
    row = ZOO["flux"]
    student = saved(row, tmp_path)
    path = tmp_path / "adapter" / WEIGHTS
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    names = {
        f"diffusion_pytorch_model-0000{part + 1}-of-00002.safetensors": sorted(tensors)[part::2] for part in (0, 1)
    }
    for shard, inside in names.items():
        save_file({name: tensors[name] for name in inside}, path.with_name(shard), metadata)
    path.unlink()
    index = {"metadata": {}, "weight_map": {name: shard for shard, inside in names.items() for name in inside}}
    (tmp_path / "adapter" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    again = open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
    torch.testing.assert_close(policy_velocity(row, again), policy_velocity(row, student), rtol=1e-4, atol=1e-5)
    path.with_name(next(iter(names))).unlink()
    with pytest.raises(RunError, match="is incomplete: diffusion_pytorch_model-00001-of-00002.safetensors is missing"):
        open_student(tmp_path / "adapter", base=str(tmp_path / "base"))


def test_adapters_take_the_dtype_of_the_base_or_keep_their_own(tmp_path) -> None:
    saved(ZOO["flux"], tmp_path)
    for options, expected in (({}, torch.bfloat16), ({"as_stored": True}, torch.float32)):
        student = open_student(tmp_path / "adapter", base=str(tmp_path / "base"), dtype=torch.bfloat16, **options)
        dtypes = {name: value.dtype for name, value in student.model.named_parameters()}
        assert {dtype for name, dtype in dtypes.items() if ".lora_" in name} == {expected}
        # Head and norm are never rounded.
        assert {dtype for name, dtype in dtypes.items() if ".lora_" not in name} == {torch.float32}
        assert not any(value.is_meta for value in root(student.model).parameters())
