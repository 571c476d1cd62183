"""The format `pipeline`: what is in the folder, where it points, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from exports import LABELS, PIPELINES, export, noise, own_samples, student, told, whole_base
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo import ZOO

from piflow_cli.console import Console
from piflow_cli.errors import RunError, UsageError
from piflow_cli.exporting import verify, weights
from piflow_cli.exporting.formats.pipeline import PipelineFormat
from piflow_cli.exporting.network import base_entry
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.exporting.standalone.code import scheduler_code
from piflow_cli.presets.resolve import load
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.shared_base import root
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.teachers.latents import latent_decoder
from piflow_cli.weights.locate import locate
from piflow_cli.weights.whole import is_of_head

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return whole_base("flux", tmp_path_factory.mktemp("base") / "flux")


def test_the_folder_has_the_whole_pipeline(base, tmp_path) -> None:
    which = student("flux", base)
    folder = export(which, "pipeline", tmp_path / "out")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "FluxPipeline"
    assert index["transformer"] == ["policy_fluxtransformer2dmodel", "PolicyFluxTransformer2DModel"]
    assert index["scheduler"] == ["policy_scheduler", "PolicyScheduler"]
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"):
        assert {path.name for path in (folder / name).iterdir()} == {path.name for path in (base / name).iterdir()}
    assert (folder / "scheduler" / "policy_scheduler.py").read_text() == scheduler_code("gm")
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["shift"] == 3.2
    with safe_open(folder / "transformer" / WEIGHTS, "pt") as file:
        told = file.metadata()
    # Nothing of the machine that it was made on.
    assert StudentFacts.from_metadata(told) == replace(which.facts, base="./flux") and str(base) not in json.dumps(told)


def test_without_its_base_a_folder_holds_what_the_student_brings(base, tmp_path) -> None:
    folder = export(student("flux", base), "pipeline", tmp_path / "out", with_base=False)
    tensors = load_file(folder / "transformer" / WEIGHTS)
    assert all(".lora_" in name or name.startswith(("proj_out.", "norm_out.linear.")) for name in tensors)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert config["policy"]["base"] == {"place": str(base), "subfolder": "transformer", "revision": None}
    told = json.loads((folder / "text_encoder" / "elsewhere.json").read_text())
    assert told == {
        "library": "transformers",
        "class": "CLIPTextModel",
        "place": str(base),
        "subfolder": "text_encoder",
        "revision": None,
    }
    assert not list((folder / "text_encoder").glob("*.safetensors"))


def test_a_base_is_named_as_diffusers_wants_it(tmp_path) -> None:
    assert base_entry("owner/name", "abc", "vae") == {"place": "owner/name", "subfolder": "vae", "revision": "abc"}
    assert base_entry("owner/name/deep/er", None, "vae") == {
        "place": "owner/name",
        "subfolder": "deep/er/vae",
        "revision": None,
    }
    assert base_entry("owner/name", None, "") == {"place": "owner/name", "subfolder": None, "revision": None}
    assert base_entry(str(tmp_path / "x" / ".."), "abc", "") == {
        "place": str(tmp_path),
        "subfolder": None,
        "revision": None,
    }


def test_a_base_on_this_machine_alone_is_warned_of_and_so_is_one_without_encoders(tmp_path, capsys) -> None:
    ZOO["flux"].build().save_pretrained(tmp_path / "bare")
    which, request = (
        student("flux", tmp_path / "bare"),
        ExportRequest("s", "pipeline", tmp_path / "out", with_base=False),
    )
    (tmp_path / "out").mkdir()
    PipelineFormat().write(which, tmp_path / "out", request, Console())
    said = capsys.readouterr().err
    assert f"the base is named by its path on this machine: {tmp_path / 'bare'}" in said.replace("\n", "")
    assert "is no whole pipeline" in said


def test_a_part_that_the_base_lists_and_lacks_is_named(tmp_path, capsys) -> None:
    base = whole_base("qwen-image", tmp_path / "base")
    shutil.rmtree(base / "vae")
    (tmp_path / "out").mkdir()
    PipelineFormat().write(
        student("qwen-image", base), tmp_path / "out", ExportRequest("s", "pipeline", tmp_path / "out"), Console()
    )
    assert (
        "lacks parts, which must be given to from_pretrained: " in (said := capsys.readouterr().err.replace("\n", " "))
        and "vae" in said
    )
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["vae"] == [None, None]


@pytest.mark.parametrize("with_base", [True, False])
def test_a_setting_of_the_pipeline_that_is_a_list_of_numbers_goes_along(tmp_path, with_base: bool) -> None:
    base = whole_base("krea2", tmp_path / "base")
    layers = json.loads((base / "model_index.json").read_text())["text_encoder_select_layers"]
    folder = export(student("krea2", base), "pipeline", tmp_path / "out", with_base=with_base)
    assert json.loads((folder / "model_index.json").read_text())["text_encoder_select_layers"] == layers != []


@pytest.mark.parametrize("whole", [True, False])
def test_a_pipeline_of_wan_ti2v_tells_each_token_its_time_whatever_its_base_states(tmp_path, whole: bool) -> None:
    if whole:
        whole_base("wan-ti2v", tmp_path / "base")
    else:
        ZOO["wan-ti2v"].build().save_pretrained(tmp_path / "base")
    which, x = student("wan-ti2v", tmp_path / "base"), noise(student("wan-ti2v"))
    folder = export(which, "pipeline", tmp_path / "out")
    with verify.reading_back():
        absent = dict.fromkeys(("text_encoder", "tokenizer", "vae"))
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **absent)
    times = []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, given: times.append(given["timestep"]), with_kwargs=True
    )
    pipeline.set_progress_bar_config(disable=True)
    given = {name: value for name, value in told(which).items() if not name.startswith("negative_")}
    size = which.family.pipeline_size(pipeline, x)
    made = pipeline(
        **which.family.pipeline_inputs(given), **size, latents=x, num_inference_steps=2, output_type="latent"
    )
    torch.testing.assert_close(made.frames, own_samples(which), rtol=1e-4, atol=1e-4)
    # Three frames of four by six tokens.
    assert [value.shape for value in times] == [(2, 72)] * 2


# Names of what diffusers opens in float32.
WAN = ("norm1", "norm2", "norm3", "time_embedder", "scale_shift_table")
WHOLE = {"krea2": ("norm",), "wan": WAN, "wan-ti2v": WAN, "wan-a14b": WAN, "kandinsky6": ("out_layer.modulation.",)}


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("name", PIPELINES)
def test_weights_are_in_the_dtype_that_is_asked_for_and_heads_in_float32(name, dtype, tmp_path) -> None:
    ZOO[name].save(tmp_path / "base") if name in ZOO else None
    folder = export(student(name, tmp_path / "base"), "pipeline", tmp_path / "out", dtype=dtype)
    own = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    for network in ZOO[name].components if name in ZOO else ("transformer",):
        for key, value in load_file(folder / network / WEIGHTS).items():
            kept = is_of_head(key) or any(part in key for part in WHOLE.get(name, ()))
            assert value.dtype == (torch.float32 if kept else own), key


def test_a_base_in_bfloat16_stays_in_it(base, tmp_path) -> None:
    folder = export(student("flux", base, dtype=torch.bfloat16), "pipeline", tmp_path / "out")
    tensors = load_file(folder / "transformer" / WEIGHTS)
    assert (
        tensors["x_embedder.weight"].dtype == torch.bfloat16 and tensors["proj_out.means.weight"].dtype == torch.float32
    )


def test_writing_leaves_the_student_as_it_was(base, tmp_path) -> None:
    which = student("flux", base)
    before = {name: value.clone() for name, value in root(which.model).state_dict().items()}
    export(which, "pipeline", tmp_path / "out")
    after = root(which.model).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_average_is_exported_where_it_is_asked_for(base, tmp_path) -> None:
    which = student("flux", base)
    average = which.average()
    average.model.load_state_dict(which.model.state_dict())
    with torch.no_grad():
        for value in average.model.parameters():
            value.mul_(1.1)
    ours, theirs = weights.merged_weights(which), weights.merged_weights(average)
    assert ours.keys() == theirs.keys()
    name = "transformer_blocks.0.ff.net.2.weight"
    plain = ZOO["flux"].build().state_dict()[name]
    product = ours[name].tensor(torch.float32) - plain
    torch.testing.assert_close(theirs[name].tensor(torch.float32) - plain, 1.21 * product, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory) -> Path:
    """A VAE for the latents of the tiny class-conditional student."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    AutoencoderKL(
        latent_channels=2, block_out_channels=(4,), norm_num_groups=2, scaling_factor=0.5, shift_factor=0.25
    ).save_pretrained(folder)
    return folder


def test_a_class_conditional_pipeline_shows_latents_by_its_vae(tmp_path, two_channels) -> None:
    which = student("dit")
    which.facts = replace(which.facts, vae=str(two_channels))
    folder = export(which, "pipeline", tmp_path / "out")
    with verify.reading_back():
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    shown = pipeline(LABELS, latents=noise(which), output_type="pt").images
    expected = latent_decoder(str(two_channels), 2, torch.device("cpu"))(own_samples(which))
    torch.testing.assert_close(shown, (expected / 2 + 0.5).clamp(0, 1), rtol=1e-3, atol=1e-4)


def test_a_class_conditional_pipeline_draws_from_seeds_by_as_many_steps_as_trained(tmp_path) -> None:
    folder = export(student("dit"), "pipeline", tmp_path / "out")
    with verify.reading_back():
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    both = pipeline([0, 1], generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)], output_type="np").images
    first = pipeline([0], generator=torch.Generator().manual_seed(1), output_type="np", num_inference_steps=2).images
    assert both.shape == (2, 4, 4, 2) and (abs(both[0] - first[0]) < 1e-5).all() and pipeline.vae is None


def damaged(folder: Path) -> None:
    path = folder / "transformer" / WEIGHTS
    tensors = load_file(path)
    tensors["x_embedder.weight"][0, 0] += 1e-3
    save_file(tensors, path, {"format": "pt"})


def test_a_weight_that_came_back_otherwise_fails_the_export(base, tmp_path) -> None:
    which, request, kind = student("flux", base), ExportRequest("s", "pipeline", tmp_path), PipelineFormat()
    folder = tmp_path / "out"
    folder.mkdir()
    kind.write(which, folder, request, Console(quiet=True))
    damaged(folder)
    with pytest.raises(RunError, match="x_embedder.weight differs"):
        kind.verify(which, folder, request)


def test_a_scheduler_of_other_settings_fails_the_export(base, tmp_path) -> None:
    which, request, kind = student("flux", base), ExportRequest("s", "pipeline", tmp_path), PipelineFormat()
    folder = tmp_path / "out"
    folder.mkdir()
    kind.write(which, folder, request, Console(quiet=True))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shift": 1.0}))
    assert kind.verify(which, folder, request) > 10 * kind.tolerance(request)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dit", {"with_base": False}, "--no-base: the student brings all of its weights"),
        ("flux", {"rank": 2}, "--rank is about adapters, and the format pipeline fuses them"),
        ("flux", {"quantise": "fp8"}, "--quantise fp8: a pipeline is quantised when it is loaded"),
    ],
)
def test_what_a_pipeline_cannot_be(name, options, message) -> None:
    request = ExportRequest("s", "pipeline", Path("out"), **options)
    with pytest.raises(UsageError, match=message) as caught:
        PipelineFormat().check(student(name).facts, request)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("flux", "guidance_scale=3.5"),
        ("qwen-image", "true_cfg_scale=1"),
        ("z-image", "guidance_scale=0"),
        ("dit", "[0, 1, 2]"),
    ],
)
def test_the_snippet_says_how_to_sample(name, call) -> None:
    snippet = PipelineFormat().snippet(student(name).facts, "owner/name")
    compile(snippet, "snippet", "exec")
    assert call in snippet and "num_inference_steps=2" in snippet and "'owner/name', trust_remote_code=True" in snippet


def test_the_snippet_of_a_digits_student_runs_on_any_machine(tmp_path, monkeypatch) -> None:
    preset, family = load("digits"), family_of("dit")
    which = student_of(family.load(locate(preset.teacher.base)), family, StudentFacts.of(preset), seed=0)
    snippet = PipelineFormat().snippet(which.facts, str(export(which, "pipeline", tmp_path / "out")))
    monkeypatch.chdir(tmp_path)
    with verify.reading_back():
        exec(snippet, {})
    with Image.open(tmp_path / "image.png") as picture:
        assert picture.size == (8, 8)
