"""`piflow sample` of text-to-image students and teachers: the stock pipelines, prompts,
sizes, LoRAs, and what cannot be sampled."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from helpers import GOLDEN, golden
from PIL import Image
from rounding import rounded
from safetensors.torch import load_file, save_file
from text_students import saved_student
from tiny_pipeline import whole_pipeline
from tiny_vae import tiny_vae
from zoo import PICTURES, ZOO, Row, disturb, every_family, every_family_of_pictures, facts_of, stack, zoo_preset

import piflow_cli as piflow
from piflow_cli.console import Console
from piflow_cli.errors import UsageError
from piflow_cli.evaluation.folders import open_folder
from piflow_cli.reports.grids import comparison_grid
from piflow_cli.reports.images import image_grid, to_images
from piflow_cli.sampling import text as text_sampling
from piflow_cli.sampling.denoise import sample_student, seeded_generators, seeded_noise
from piflow_cli.sampling.opened import open_model
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.sampling.trajectory import walk
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.loras import cast_adapters
from piflow_cli.students.open import find_student, open_student
from piflow_cli.students.shared_base import root
from piflow_cli.students.student import student_of as trained_in_full
from piflow_cli.teachers import families, family_of
from piflow_cli.teachers.base import teacher_velocity
from piflow_cli.teachers.decoders import decode_each
from piflow_cli.teachers.encoders import collate
from piflow_cli.teachers.text_to_image import TextToImageFamily

SIZE = ["--height", "64", "--width", "96"]
FLUX_TINY = GOLDEN / "flux-tiny"
pytestmark = pytest.mark.usefixtures("text_encoders")


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> Path:
    return saved_student(ZOO["flux"], tmp_path_factory.mktemp("flux"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def run(cli, *arguments: object) -> None:
    outcome = cli("sample", *map(str, arguments), "--quiet")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
@every_family
def test_a_student_that_brings_all_its_weights_comes_back_and_samples(cli, row: Row, policy: str, tmp_path) -> None:
    zoo_preset(row, tmp_path)
    tiny_vae(row.family).save_pretrained(tmp_path / "base" / "vae")
    facts = replace(facts_of(row, policy), base=str(tmp_path / "base"))
    student = trained_in_full(row.build(), family_of(row.family, row.guidance), facts, seed=0)
    disturb(student)
    save_adapter(student, tmp_path / "adapter")
    again, expected = open_student(tmp_path / "adapter").model.state_dict(), student.model.state_dict()
    assert again.keys() == expected.keys() and all(torch.equal(again[name], value) for name, value in expected.items())
    frames, ending = (["--frames", str(row.frames)], "gif") if row.makes_videos else ([], "png")
    run(cli, tmp_path / "adapter", "a fox", *SIZE, *frames, "--output", tmp_path / "out")
    assert pixels(tmp_path / "out" / f"0000-000000.{ending}").std() > 0
    refused = cli(
        "sample",
        str(tmp_path / "adapter"),
        "a fox",
        *SIZE,
        *frames,
        "--base-precision",
        "bf16",
        "--output",
        str(tmp_path / "no"),
    )
    assert refused.code == 2 and "this student brings all of its weights" in refused.err


@every_family_of_pictures
def test_a_picture_is_the_one_that_training_previews(cli, row: Row, tmp_path) -> None:
    """The pipeline's loop over its scheduler, and our own over the network, meet in the same pixels."""
    adapter = saved_student(row, tmp_path)
    run(cli, adapter, "a fox", "cat", *SIZE, "--seeds", "3,5", "--batch-size", "4", "--output", tmp_path / "out")
    student = open_student(adapter)
    vae = student.family.load_vae(tmp_path / "base")
    given = collate([row.encode(6), row.encode(6), row.encode(4), row.encode(4)])
    noise = seeded_noise(seeded_generators([3, 5, 3, 5]), (4, 8, 12))
    with torch.no_grad():
        states = decode_each(student.family, vae, sample_student(student, noise, given))
    names = ["0000-000003", "0000-000005", "0001-000003", "0001-000005"]
    for name, image in zip(names, to_images(states), strict=True):
        assert abs(pixels(tmp_path / "out" / f"{name}.png") - np.asarray(image).astype(int)).max() <= 1
    assert len({pixels(tmp_path / "out" / f"{name}.png").tobytes() for name in names}) == 4


def test_a_run_samples_its_last_preview(cli, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(TextToImageFamily, "beside_steps", 2)
    preset, _ = zoo_preset(ZOO["flux"], tmp_path)
    tiny_vae("flux").save_pretrained(tmp_path / "base" / "vae")
    (tmp_path / "p.txt").write_text("a cat\n")
    settings = [
        "--set",
        f"data.cache={tmp_path / 'cache'}",
        "--set",
        "data.sizes=[[96, 64]]",
        "--set",
        "output.preview_every=2",
    ]
    outcome = cli(
        "distill",
        "--teacher",
        str(preset),
        "--prompts",
        str(tmp_path / "p.txt"),
        *settings,
        "--iterations",
        "2",
        "--output",
        str(tmp_path / "run"),
        "--quiet",
    )
    assert outcome.code == 0, outcome.err
    run(cli, tmp_path / "run", "a cat", *SIZE, "--seeds", "0-3", "--output", tmp_path / "out")
    preview = pixels(tmp_path / "run" / "previews" / "0000002.png")
    pictures = [Image.open(path) for path in sorted((tmp_path / "out").glob("0*.png"))]
    expected = comparison_grid({"seeds 0 to 3": pictures}, ["a cat"] * 4)
    assert preview.std() > 10 and abs(np.asarray(expected).astype(int) - preview).max() <= 1


@pytest.mark.parametrize("stochastic", ["0", "inf"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_same_alone_and_in_a_batch(cli, name, stochastic, tmp_path) -> None:
    adapter = saved_student(ZOO[name], tmp_path)
    common = [*SIZE, "--stochastic", stochastic, "--no-grid"]
    run(cli, adapter, "a fox", "cat", *common, "--seeds", "0-2", "--batch-size", "6", "--output", tmp_path / "all")
    run(cli, adapter, "dog", "cat", *common, "--seeds", "2", "--output", tmp_path / "alone")
    difference = pixels(tmp_path / "all" / "0001-000002.png") - pixels(tmp_path / "alone" / "0001-000002.png")
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("nfe", [4, 6])
@pytest.mark.parametrize("temperature", ["auto", "1.0"])
def test_the_published_latents_come_out_of_the_command(cli, nfe, temperature, tmp_path, monkeypatch) -> None:
    numbers, shown = golden("flux-tiny/outputs.safetensors"), []
    base = tmp_path / "base"
    base.mkdir()
    (base / "transformer").symlink_to(FLUX_TINY / "transformer")
    tiny_vae("flux").save_pretrained(base / "vae")
    texts = [
        dict(zip(("prompt_embeds", "pooled_prompt_embeds"), pair))
        for pair in zip(numbers["prompt_embeds"], numbers["pooled_prompt_embeds"])
    ]
    monkeypatch.setattr(
        families()["flux"], "encode_prompts", lambda self, used, given: [texts[int(text)] for text in given]
    )
    monkeypatch.setattr(text_sampling, "seeded_noise", lambda generators, shape: numbers["latents"])
    monkeypatch.setattr(
        text_sampling, "decode_each", lambda family, vae, latents: shown.append(latents) or torch.zeros(2, 3, 64, 96)
    )
    options = [
        "--steps",
        nfe,
        "--temperature",
        temperature,
        "--base-precision",
        "fp32",
        "--batch-size",
        "2",
        "--output",
        tmp_path / "out",
    ]
    run(cli, FLUX_TINY / "adapter", "0", "1", "--base", base, *SIZE, *options)
    theirs = numbers[f"sample.nfe{nfe}.temperature_{temperature}"]
    assert ((shown[0] - theirs).norm() / theirs.norm()).item() < 1e-4


@every_family_of_pictures
def test_a_base_in_bfloat16_shows_nearly_the_same(cli, row: Row, tmp_path) -> None:
    adapter = saved_student(row, tmp_path)
    for precision in ("fp32", "bf16"):
        run(cli, adapter, "a fox", *SIZE, "--base-precision", precision, "--output", tmp_path / precision)
    difference = abs(pixels(tmp_path / "fp32" / "0000-000000.png") - pixels(tmp_path / "bf16" / "0000-000000.png"))
    assert 0 < difference.mean() < 4


@pytest.mark.parametrize("name", ["flux", "flux2", "z-image"])
def test_a_base_in_fp8_shows_what_one_does_that_was_rounded(cli, name: str, tmp_path) -> None:
    adapter, vae = saved_student(ZOO[name], tmp_path), tmp_path / "base" / "vae"
    base = ZOO[name].build().bfloat16()
    rounded(base, families()[name]().kept_whole(base)).save_pretrained(tmp_path / "rounded" / "transformer")
    (tmp_path / "rounded" / "vae").symlink_to(vae)
    for place, precision in (("base", "fp8"), ("rounded", "bf16"), ("base", "bf16")):
        options = ["--base", tmp_path / place, "--base-precision", precision]
        run(cli, adapter, "a fox", *SIZE, *options, "--output", tmp_path / f"{place} in {precision}")
        run(
            cli,
            "--teacher",
            tmp_path / "tiny.yaml",
            "a fox",
            *SIZE,
            *options,
            "--steps",
            "2",
            "--output",
            tmp_path / f"teacher {place} in {precision}",
        )
    for whose in ("", "teacher "):
        stored, by_hand, whole = (
            pixels(tmp_path / f"{whose}{which}" / "0000-000000.png")
            for which in ("base in fp8", "rounded in bf16", "base in bf16")
        )
        assert (stored == by_hand).all() and (stored != whole).any()


@pytest.mark.parametrize(
    ("precision", "offload", "refused"),
    [("nf4", "group", True), ("int8", "sequential", True), ("nf4", "model", False), ("fp8", "group", False)],
)
def test_bases_of_bitsandbytes_are_not_offloaded_layer_by_layer(monkeypatch, precision, offload, refused) -> None:
    monkeypatch.setattr(text_sampling, "check_precision", lambda *given: None)
    request = SampleRequest(base_precision=precision, offload=offload)
    with (
        pytest.raises(UsageError, match=f"--offload {offload} excludes --base-precision {precision}")
        if refused
        else nullcontext()
    ):
        assert text_sampling._precision(request, "bf16", torch.device("cuda")) == precision


def test_a_teacher_whose_preset_quantises_its_base_is_shown_in_bfloat16(cli, tmp_path) -> None:
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    tiny_vae("flux").save_pretrained(tmp_path / "base" / "vae")
    for precision in ("fp8", "bf16"):
        path.write_text(re.sub("base_precision: [a-z0-9]+", f"base_precision: {precision}", path.read_text()))
        run(cli, "--teacher", path, "a fox", *SIZE, "--steps", "2", "--output", tmp_path / precision)
    assert (pixels(tmp_path / "fp8" / "0000-000000.png") == pixels(tmp_path / "bf16" / "0000-000000.png")).all()


def test_adapters_are_held_in_the_dtype_of_the_base(flux) -> None:
    student = open_student(flux, dtype=torch.bfloat16)
    cast_adapters(root(student.model), torch.bfloat16)
    dtypes = {"lora" in name: value.dtype for name, value in student.model.named_parameters()}
    assert dtypes == {True: torch.bfloat16, False: torch.float32}


@every_family_of_pictures
@pytest.mark.parametrize("own_scheduler", [False, True])
def test_a_teacher_is_what_its_stock_pipeline_makes(cli, row: Row, own_scheduler: bool, tmp_path, monkeypatch) -> None:
    """Against a pipeline that is put together by hand, guidance and all."""
    preset, _ = zoo_preset(row, tmp_path)
    vae = tiny_vae(row.family)
    vae.save_pretrained(tmp_path / "base" / "vae")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.7 if own_scheduler else 3.2)
    if row.component == "unet":
        spacing = "trailing" if own_scheduler else "linspace"
        scheduler = diffusers.EulerDiscreteScheduler(1000, 0.00085, 0.012, "scaled_linear", timestep_spacing=spacing)
    if own_scheduler:
        scheduler.save_pretrained(tmp_path / "base" / "scheduler")
    run(cli, "--teacher", preset, "a fox", *SIZE, "--steps", "3", "--seeds", "4", "--output", tmp_path / "out")
    family = families()[row.family](row.guidance)
    pipeline = family.pipeline(row.build(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    text, empty, noise = row.encode(6), row.encode(1), seeded_noise(seeded_generators([4]), (4, 8, 12))
    if row.family == "flux3-klein":
        text, empty = ({"prompt_embeds": told["prompt_embeds"]} for told in (text, empty))
    if row.family in ("krea2", "sana"):
        both = stack([text, empty])
        text, empty = ({name: values[half] for name, values in both.items()} for half in (0, 1))
    size = {"height": 64, "width": 96, "num_inference_steps": 3, "output_type": "latent"}
    if row.prompt_lists:
        given = {
            "prompt_embeds": [text["prompt_embeds"]],
            "negative_prompt_embeds": [empty["prompt_embeds"]],
            # Z-Image counts from the conditional velocity too.
            "guidance_scale": row.guidance - 1 if row.family == "z-image" else row.guidance,
        }
    else:
        given = {name: value[None] for name, value in text.items()}
        if row.guidance_mode == "embedded":
            given["guidance_scale"] = row.guidance
        else:
            scale = "true_cfg_scale" if row.family in ("qwen-image", "flux-cfg") else "guidance_scale"
            if row.family == "sdxl":
                empty = {name: torch.zeros_like(value) for name, value in empty.items()}
            given |= {f"negative_{name}": value[None] for name, value in empty.items()}
            given |= {
                "ovis-image": {"negative_prompt": None},
                "longcat-image": {"enable_prompt_rewrite": False},
                "sana": {"negative_prompt": None, "use_resolution_binning": False},
            }.get(row.family, {})
            # Krea 2 counts from the conditional velocity.
            given[scale] = row.guidance - 1 if row.family == "krea2" else row.guidance
    latents = row.unpacked(pipeline, pipeline(**given, latents=row.packed(pipeline, noise), **size)[0], noise)
    with torch.no_grad():
        expected = to_images(decode_each(family, vae, latents))[0]
    assert abs(pixels(tmp_path / "out" / "0000-000004.png") - np.asarray(expected).astype(int)).max() <= 1


def test_of_another_solver_a_teacher_takes_the_shift(cli, tmp_path) -> None:
    preset, _ = zoo_preset(ZOO["sana"], tmp_path)
    tiny_vae("sana").save_pretrained(tmp_path / "base" / "vae")
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    schedulers = {
        "solver": diffusers.DPMSolverMultistepScheduler(flow_shift=1.7, **flow),
        "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=1.7),
        "plain": diffusers.FlowMatchEulerDiscreteScheduler(),
    }
    for name, scheduler in schedulers.items():
        shutil.rmtree(tmp_path / "base" / "scheduler", ignore_errors=True)
        scheduler.save_pretrained(tmp_path / "base" / "scheduler")
        run(cli, "--teacher", preset, "a fox", *SIZE, "--steps", "3", "--output", tmp_path / name)
    made = {name: pixels(tmp_path / name / "0000-000000.png") for name in schedulers}
    assert (made["solver"] == made["euler"]).all() and (made["solver"] != made["plain"]).any()


def test_a_file_of_prompts_says_seeds_and_sizes(cli, flux, tmp_path) -> None:
    rows = [{"text": "a fox", "seed": 7, "width": 64, "height": 32}, {"text": "cat", "width": 32, "height": 64}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(cli, flux, "--prompts", tmp_path / "p.jsonl", "--output", tmp_path / "out", "--batch-size", "2")
    with Image.open(tmp_path / "out" / "0000-000007.png") as image:
        assert image.size == (64, 32)
        recipe = json.loads(image.text["piflow"])
    told = {"prompt": "a fox", "seed": 7, "width": 64, "height": 32, "steps": 2, "guidance": 3.5, "teacher": "tiny"}
    assert told.items() <= recipe.items()
    with Image.open(tmp_path / "out" / "0001-000000.png") as image:
        assert image.size == (32, 64)
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.size == (128, 64)
    run(
        cli,
        flux,
        "--prompts",
        tmp_path / "p.jsonl",
        "--seeds",
        "1-2",
        "--width",
        "48",
        "--output",
        tmp_path / "again",
        "--no-metadata",
    )
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names == {f"000{number}-00000{seed}.png" for number in (0, 1) for seed in (1, 2)} | {"grid.png"}
    with Image.open(tmp_path / "again" / "0000-000001.png") as image:
        assert image.size == (48, 32) and "piflow" not in image.text


def test_a_prompt_that_is_cut_is_named_as_json(cli, flux, tmp_path) -> None:
    outcome = cli("sample", str(flux), "a fox", "z" * 600, *SIZE, "--output", str(tmp_path), "--json")
    (warning,) = [json.loads(line)["warning"] for line in outcome.err.splitlines()]
    assert (
        warning.startswith("1 of 2 texts are longer than the text encoder reads")
        and "(600 tokens, of which 512 are read)" in warning
    )


def test_the_hint_about_a_column_is_an_option_of_sample(cli, flux, tmp_path) -> None:
    (tmp_path / "p.csv").write_text("Prompt,Category\na fox,Animals\n")
    outcome = cli("sample", str(flux), "--prompts", str(tmp_path / "p.csv"), *SIZE, "--output", str(tmp_path / "out"))
    assert outcome.code == 2 and "it has Prompt, Category" in outcome.err
    option, column = outcome.err.split()[-2:]
    run(cli, flux, "--prompts", tmp_path / "p.csv", option, column, *SIZE, "--output", tmp_path / "out")
    assert pixels(tmp_path / "out" / "0000-000000.png").shape == (64, 96, 3)
    refused = cli("sample", str(flux), "a fox", option, column, *SIZE, "--output", str(tmp_path / "none"))
    assert refused.code == 2 and "--text-column belongs to a file of prompts" in refused.err


def test_a_grid_says_what_it_is_even_without_a_recipe(cli, flux, tmp_path) -> None:
    for name, options in (("with", []), ("without", ["--no-metadata"])):
        run(cli, flux, "cat", *SIZE, "--seeds", "0-1", "--output", tmp_path / name, *options)
        assert len(open_folder(tmp_path / name).entries) == 2
        with Image.open(tmp_path / name / "grid.png") as grid:
            assert json.loads(grid.text["piflow"])["grid"] is True


# The whole pipeline on disk, text encoders and tokenizers of its own.


def test_a_whole_pipeline_from_disk(cli, flux, tmp_path, monkeypatch) -> None:
    """Nothing stands in for anything: the teacher's picture is what the saved
    pipeline makes of the prompt by one call."""
    monkeypatch.undo()
    preset, _ = zoo_preset(ZOO["flux"], tmp_path)
    pipeline = whole_pipeline(tmp_path / "base")
    run(cli, "--teacher", preset, "a red fox", *SIZE, "--steps", "2", "--seeds", "1", "--output", tmp_path / "teacher")
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline._pack_latents(seeded_noise(seeded_generators([1]), (4, 8, 12)), 1, 4, 8, 12)
    expected = pipeline(
        "a red fox", height=64, width=96, num_inference_steps=2, guidance_scale=3.5, latents=latents
    ).images[0]
    # The text encoders of a preset's teacher work in bfloat16.
    assert abs(pixels(tmp_path / "teacher" / "0000-000001.png") - np.asarray(expected).astype(int)).mean() < 1
    run(cli, flux, "--base", tmp_path / "base", "a red fox", "a cat", *SIZE, "--output", tmp_path / "student")
    fox, cat = (pixels(tmp_path / "student" / f"000{number}-000000.png") for number in (0, 1))
    assert (fox != cat).any()


# LoRAs.


def lora_file(path: Path, shapes: dict[str, tuple[int, int]], name: str = "transformer.{}.lora_{}.weight") -> Path:
    """A LoRA of rank 2 on modules of (in, out) features."""
    generator = torch.Generator().manual_seed(0)
    factors = {name.format(module, "A"): (2, into) for module, (into, _) in shapes.items()}
    factors |= {name.format(module, "B"): (out, 2) for module, (_, out) in shapes.items()}
    save_file({key: torch.randn(*shape, generator=generator) for key, shape in factors.items()}, path)
    return path


# A layer with an adapter of ours, one without, and one that the student has a copy of.
LAYERS = {
    "transformer_blocks.0.ff.net.2": (128, 32),
    "transformer_blocks.0.attn.to_q": (32, 32),
    "norm_out.linear": (32, 64),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_lora_adds_its_product_to_the_weights(cli, flux, layer, tmp_path) -> None:
    """Beside the student's adapters: the picture is that of a student whose layer has the product in it."""
    path = lora_file(tmp_path / "lora.safetensors", {layer: LAYERS[layer]})
    run(cli, flux, "cat", *SIZE, "--lora", f"{path}:0.3", "--output", tmp_path / "with")
    run(cli, flux, "cat", *SIZE, "--lora", f"{path}:0", "--output", tmp_path / "zero")
    run(cli, flux, "cat", *SIZE, "--output", tmp_path / "without")
    plain = pixels(tmp_path / "without" / "0000-000000.png")
    assert (pixels(tmp_path / "zero" / "0000-000000.png") == plain).all()
    student = open_student(flux)
    factors = load_file(path)
    module = student.model.get_submodule(layer)
    weight = getattr(module, "base_layer", module).weight
    with torch.no_grad():
        weight += 0.3 * factors[f"transformer.{layer}.lora_B.weight"] @ factors[f"transformer.{layer}.lora_A.weight"]
        noise = seeded_noise(seeded_generators([0]), (4, 8, 12))
        states = sample_student(student, noise, collate([ZOO["flux"].encode(4)]))
        expected = to_images(decode_each(student.family, student.family.load_vae(flux.parent / "base"), states))[0]
    found = pixels(tmp_path / "with" / "0000-000000.png")
    assert abs(found - np.asarray(expected).astype(int)).max() <= 1 and (found != plain).any()


def test_a_lora_on_a_teacher(cli, tmp_path) -> None:
    preset, _ = zoo_preset(ZOO["flux"], tmp_path)
    tiny_vae("flux").save_pretrained(tmp_path / "base" / "vae")
    path = lora_file(tmp_path / "lora.safetensors", {"proj_out": (32, 16)})
    for name, scale in {"none": 0, "some": 1}.items():
        run(
            cli,
            "--teacher",
            preset,
            "a cat",
            *SIZE,
            "--steps",
            "2",
            "--lora",
            f"{path}:{scale}",
            "--output",
            tmp_path / name,
        )
    assert (pixels(tmp_path / "none" / "0000-000000.png") != pixels(tmp_path / "some" / "0000-000000.png")).any()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"transformer_blocks.7.attn.to_q": (32, 32)},
            "it has weights for transformer_blocks.7.attn.to_q, which this FluxTransformer2DModel lacks",
        ),
        ({"transformer_blocks.0.attn.to_q": (48, 32)}, "transformer_blocks.0.attn.to_q is 48 wide in it, and 32 here"),
        ({"transformer_blocks.0.attn.to_q": (32, 16)}, "transformer_blocks.0.attn.to_q is 16 wide in it, and 32 here"),
        ({"proj_out": (32, 16)}, "proj_out, in whose place the student has a policy head"),
    ],
)
def test_a_lora_for_another_model_is_refused(cli, flux, shapes, message, tmp_path) -> None:
    path = lora_file(tmp_path / "lora.safetensors", shapes)
    outcome = cli("sample", str(flux), "cat", *SIZE, "--lora", str(path), "--output", str(tmp_path / "out"))
    assert outcome.code == 2 and message in outcome.err and "→" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_lora_is_refused(cli, flux, tmp_path) -> None:
    lora_file(tmp_path / "unet.safetensors", {"down.0": (4, 4)}, "unet.{}.lora_{}.weight")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40" * 40)
    (tmp_path / "pickled.bin").write_bytes(b"")
    cases = {
        "nowhere.safetensors": "there is no LoRA at",
        "unet.safetensors": "it has weights for down.0, which this FluxTransformer2DModel lacks",
        "cut.safetensors": "corrupt or cut short",
        "pickled.bin": "from .safetensors alone",
    }
    for name, message in cases.items():
        outcome = cli(
            "sample", str(flux), "cat", *SIZE, "--lora", str(tmp_path / name), "--output", str(tmp_path / "out")
        )
        assert outcome.code in (1, 2) and message in outcome.err and "→" in outcome.err, name


def test_a_lora_that_the_hub_keeps_back_says_what_to_do(cli, flux, tmp_path, monkeypatch) -> None:
    def gated(*given, **options):
        # As huggingface_hub raises it.
        gate = type("GatedRepoError", (OSError,), {"response": SimpleNamespace(status_code=401)})("401")
        raise gate

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", gated)
    outcome = cli("sample", str(flux), "cat", *SIZE, "--lora", "me/lora", "--output", str(tmp_path / "out"))
    assert (
        outcome.code == 1
        and "me/lora: the model is gated, and the Hub does not know who asks" in outcome.err
        and "hf auth login" in outcome.err
    )


# Guidance, offloading, compilation.


def test_guidance_other_than_the_students_is_warned_of_once(cli, flux, tmp_path) -> None:
    said = cli("sample", str(flux), "cat", "dog", *SIZE, "--guidance", "5", "--output", str(tmp_path / "5")).err
    assert (
        said.count("the student has guidance 3.5 distilled in: --guidance 5 is another, and pictures may suffer") == 1
    )
    said = cli("sample", str(flux), "cat", *SIZE, "--guidance", "3.5", "--output", str(tmp_path / "3.5")).err
    assert "distilled in" not in said
    assert (pixels(tmp_path / "5" / "0000-000000.png") != pixels(tmp_path / "3.5" / "0000-000000.png")).any()


def test_guidance_does_nothing_to_a_student_whose_network_is_not_told_it(cli, tmp_path) -> None:
    adapter = saved_student(ZOO["qwen-image"], tmp_path)
    said = cli("sample", str(adapter), "cat", *SIZE, "--guidance", "7", "--output", str(tmp_path / "7")).err
    assert "it has no effect" in said
    run(cli, adapter, "cat", *SIZE, "--output", tmp_path / "own")
    assert (pixels(tmp_path / "7" / "0000-000000.png") == pixels(tmp_path / "own" / "0000-000000.png")).all()


@pytest.mark.parametrize(
    ("how", "method"),
    [
        ("model", "enable_model_cpu_offload"),
        ("sequential", "enable_sequential_cpu_offload"),
        ("group", "enable_group_offload"),
        ("none", "to"),
    ],
)
def test_offloading_is_the_pipelines_own(how, method) -> None:
    asked = []

    class Pipeline:
        def __getattr__(self, name):
            return lambda *arguments, **options: asked.append(name)

    text_sampling._place(Pipeline(), SimpleNamespace(offload=how, compile=False), torch.device("cuda"))
    assert asked == [method]


def test_compilation_is_of_the_repeated_blocks(cli, flux, tmp_path, monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, *arguments, **options: compiled.append(type(self).__name__)
    )
    run(cli, flux, "cat", *SIZE, "--compile", "--output", tmp_path / "out")
    assert sorted(set(compiled)) == ["FluxSingleTransformerBlock", "FluxTransformerBlock"] and len(compiled) == 3


# What cannot be sampled.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "is told a text, and none is given"),
        ([" "], "the prompt is empty"),
        (["cat", "--labels", "3"], "--labels: the model is told a text"),
        (["cat", "--vae", "here"], "--vae: the VAE of a text-to-image model is that of its base"),
        (["cat", "--prompts", "p.txt"], "a prompt is given, and --prompts too"),
        (["--prompts", "nowhere.txt"], "there are no prompts at nowhere.txt"),
        (["--prompts", "{folder}/p.jsonl"], "p.jsonl:2:"),
        (["--prompts", "{folder}/odd.jsonl"], "width 100 (prompt 1 of {folder}/odd.jsonl) is no multiple of 16 pixels"),
        (["cat", "--height", "1000"], "height 1000 is no multiple of 16 pixels"),
        (["cat", "--width", "7"], "width 7 is no multiple of 16 pixels"),
        (["cat", "--height", "0"], "--height"),
        (["cat", "--guidance", "0.5"], "--guidance 0.5: not a number of at least 1"),
        (["cat", "--offload", "disk"], "--offload disk: must be none, model, sequential or group"),
        (["cat", "--offload", "model", "--device", "cpu"], "--offload model: the CPU is where weights are moved to"),
        (["cat", "--offload", "group", "--compile"], "--offload group excludes --compile"),
        (["cat", "--offload", "sequential", "--compile"], "--offload sequential excludes --compile"),
        (["cat", "--base-precision", "int4"], "--base-precision int4: must be fp32, bf16, fp8, int8 or nf4"),
        (["cat", "--base-precision", "nf4", "--device", "cpu"], "a base in nf4 needs"),
        (["cat", "--base", "{folder}/nowhere"], "there is nothing at"),
        (["cat", "--base", "{folder}/bare"], "bare has no VAE that shows latents"),
    ],
)
def test_what_cannot_be_sampled_says_so(cli, flux, tmp_path, arguments, message) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "odd.jsonl").write_text('{"text": "a", "width": 100}\n')
    (tmp_path / "bare").mkdir()
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    outcome = cli("sample", str(flux), *arguments, "--output", str(tmp_path / "out"))
    assert outcome.code == 2 and message.format(folder=tmp_path) in outcome.err and "→" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_base_without_its_text_encoders_says_which_are_missing(cli, flux, tmp_path, monkeypatch) -> None:
    monkeypatch.undo()
    base = flux.parent / "base"
    outcome = cli("sample", str(flux), "cat", *SIZE, "--output", str(tmp_path / "out"))
    assert (
        outcome.code == 2
        and "has no text encoder: there is no model_index.json and no text_encoder in it" in outcome.err
    )
    parts = {
        "_class_name": "FluxPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "image_encoder": [None, None],
    }
    (base / "model_index.json").write_text(json.dumps(parts))
    outcome = cli("sample", str(flux), "cat", *SIZE, "--output", str(tmp_path / "out"))
    (base / "model_index.json").unlink()
    assert outcome.code == 2 and "there is no text_encoder and no tokenizer_2 in it" in outcome.err


@pytest.mark.parametrize("overflowing", ["transformer", "vae"])
@pytest.mark.parametrize("teacher", [False, True])
def test_pictures_that_are_not_finite_are_refused(cli, tmp_path, monkeypatch, overflowing: str, teacher: bool) -> None:
    adapter = saved_student(ZOO["flux"], tmp_path)
    family = families()[ZOO["flux"].family]
    if overflowing == "vae":
        decode = family.decode_latents
        monkeypatch.setattr(family, "decode_latents", lambda self, vae, latents: decode(self, vae, latents) * torch.nan)
    else:
        back = family.from_pipeline
        monkeypatch.setattr(
            family, "from_pipeline", lambda self, latents, *sides: back(self, latents, *sides) * torch.inf
        )
    arguments = ["--teacher", str(tmp_path / "tiny.yaml"), "--steps", "1"] if teacher else [str(adapter)]
    outcome = cli("sample", *arguments, "a fox", *SIZE, "--output", str(tmp_path / "out"), "--quiet")
    assert outcome.code == 1 and "not finite" in outcome.err
    assert not (tmp_path / "out").exists()


def test_class_conditional_models_take_no_prompts(cli, tiny_teacher) -> None:
    cases = {
        "a prompt": ["a red fox"],
        "--height, --compile": ["--height", "64", "--compile"],
        "--lora": ["--lora", "x"],
        "--offload": ["--offload", "group"],
    }
    for named, options in cases.items():
        outcome = cli("sample", "--teacher", str(tiny_teacher), *options)
        assert outcome.code == 2 and f"is told class labels, not text: {named}" in outcome.err


def test_a_word_beside_a_teacher_is_a_student_and_a_sentence_a_prompt(cli, requests) -> None:
    cli("sample", "--teacher", "flux-dev", "a fox", "cat")
    cli("sample", "runs/x", "cat", "--teacher", "flux-dev")
    assert [(request.student, request.prompts) for request in requests] == [
        (None, ("a fox", "cat")),
        ("runs/x", ("cat",)),
    ]


def test_a_grid_shrinks_large_pictures_by_whole_factors() -> None:
    grid = image_grid([Image.new("RGB", (1024, 600), "red"), Image.new("RGB", (600, 1024), "blue")], 2)
    assert grid.size == (1024, 512)
    assert (
        grid.getpixel((511, 299)) == (255, 0, 0)
        and grid.getpixel((512, 511)) == (0, 0, 255)
        and grid.getpixel((0, 300)) == (0, 0, 0)
    )


def test_an_opened_model_refuses_another_teacher_than_the_students(flux, tmp_path) -> None:
    zoo_preset(ZOO["flux"], tmp_path)
    (tmp_path / "tiny.yaml").write_text((tmp_path / "tiny.yaml").read_text().replace("name: tiny", "name: other"))
    with pytest.raises(UsageError, match="was trained for the teacher tiny, not other"):
        find_student(flux, str(tmp_path / "tiny.yaml"))


@every_family
def test_a_student_in_memory_makes_the_pictures_of_its_file_again_and_again(row: Row, tmp_path) -> None:
    adapter = saved_student(row, tmp_path)
    options = {"seeds": [3, 5], "height": 64, "width": 96, "device": "cpu"} | (
        {"frames": row.frames} if row.makes_videos else {}
    )
    expected, student = piflow.sample(adapter, "a fox", **options), piflow.load_student(adapter)
    for _ in range(2):
        for image, other in zip(piflow.sample(student, "a fox", **options), expected, strict=True):
            assert np.array_equal(np.asarray(image), np.asarray(other))
    with pytest.raises(UsageError, match="in memory"):
        piflow.sample(student, "a fox", loras=[("style.safetensors", 1.0)], **options)
    with pytest.raises(UsageError, match=r"is in torch\.float16"):
        piflow.sample(piflow.load_student(adapter, dtype=torch.float16), "a fox", **options)


@every_family_of_pictures
def test_an_opened_model_has_the_noise_the_text_and_the_pictures_of_the_command(cli, row: Row, tmp_path) -> None:
    adapter = saved_student(row, tmp_path)
    drawn = SampleRequest(prompts=("a fox",), seeds=(3, 5), height=64, width=96)
    opened = open_model(find_student(adapter), drawn, device=torch.device("cpu"), console=Console(quiet=True))
    run(cli, adapter, "a fox", *SIZE, "--seeds", "3,5", "--output", tmp_path / "out")
    *_, last = walk(opened.student, opened.noise(opened.specs), opened.conditioning(opened.specs))
    for spec, image in zip(opened.specs, to_images(opened.decode(last.end)), strict=True):
        assert abs(pixels(tmp_path / "out" / f"{spec.stem}.png") - np.asarray(image).astype(int)).max() <= 1
    # A teacher in the same base answers at the same states.
    teacher = own_teacher(opened.student, teacher=str(tmp_path / "tiny.yaml"))
    sigma, given = torch.full((2,), 0.5), opened.conditioning(opened.specs)
    alone = row.build()
    expected = teacher_velocity(opened.student.family, alone, teacher.guidance, last.states[0], sigma, given)
    assert (teacher.guidance.scale == 1) == (row.guidance_mode == "embedded")
    torch.testing.assert_close(teacher.velocity(last.states[0], sigma, given), expected, rtol=0, atol=0)
