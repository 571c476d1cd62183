"""The shipped emoji teacher, its own weights: what it draws, and all that is done with a student of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from plain_environment import plain_environment, run_plain

from piflow_cli.presets.folders import presets_root
from piflow_cli.weights.locate import locate

SIZE = {"height": 64, "width": 64, "max_sequence_length": 32}
STYLED = ["red heart", "green apple", "flag of france", "cat face", "rocket", "soccer ball", "rainbow", "grinning face"]
PLAIN = """
import sys, numpy, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
told = {"height": 64, "width": 64, "num_inference_steps": 4, "max_sequence_length": 32}
picture = pipeline("red heart", **told, generator=torch.Generator().manual_seed(0), output_type="np").images[0]
numpy.save(sys.argv[2], picture)
"""


def opened(name: str = "emoji") -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(locate(f"preset:{name}"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(pipeline: FluxPipeline, prompts: list[str], steps: int, **told: object) -> np.ndarray:
    """(N, 64, 64, 3) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    guidance = told if told else {"guidance_scale": 3.5}
    return pipeline(
        prompts, num_inference_steps=steps, generator=generator, output_type="np", **SIZE, **guidance
    ).images


def drawn_in(folder: Path) -> list[np.ndarray]:
    """The pictures in a folder of `piflow sample`, in their order, (64, 64, 3) in [0, 1]."""
    return [np.asarray(Image.open(file).convert("RGB")) / 255 for file in sorted(folder.glob("0*.png"))]


def saturation(folder: Path) -> float:
    """The mean over pictures of the largest channel less the smallest."""
    return float(np.mean([np.ptp(picture, axis=-1).mean() for picture in drawn_in(folder)]))


def check_colours(flag: np.ndarray, heart: np.ndarray, pale: np.ndarray, dark: np.ndarray) -> None:
    """The flag of France is blue, white and red; a heart is red; skin is as light as is asked."""
    left, middle, right = (flag[24:40, start : start + 8].mean((0, 1)) for start in (6, 28, 50))
    assert left[2] > 0.4 > left[0] and middle.min() > 0.8 and right[0] > 0.7 > 0.4 > right[2]
    centre = heart[24:40, 24:40].mean((0, 1))
    assert centre[0] > 0.8 and centre[1:].max() < 0.4
    assert pale.mean() > dark.mean() + 0.05


ASKED = ["flag of france", "red heart", "thumbs up sign, light skin tone", "thumbs up sign, dark skin tone"]


def test_the_teacher_draws_what_it_is_asked_for():
    check_colours(*pictures(opened(), ASKED, 8))


def test_the_teacher_of_two_halves_draws_it_too():
    told = {"negative_prompt": [""] * len(ASKED), "true_cfg_scale": 3.5}
    check_colours(*pictures(opened("emoji-cfg"), ASKED, 8, **told))


def test_both_have_the_same_encoders_and_state_their_training():
    first, second = Path(locate("preset:emoji")), Path(locate("preset:emoji-cfg"))
    for part in ("text_encoder", "text_encoder_2", "vae"):
        for file in (first / part).glob("*.safetensors"):
            assert file.read_bytes() == (second / part / file.name).read_bytes()
    assert sum(file.stat().st_size for file in first.rglob("*")) <= 25e6
    # A wheel of at most 45 MB, were nothing in it compressed.
    assert sum(file.stat().st_size for file in presets_root().rglob("*") if file.is_file()) <= 45e6
    story = json.loads((first / "training.json").read_text())
    assert story["teacher"]["iterations_done"] == len(story["teacher"]["losses"]) * 100 - 77
    assert "Apache" in (first / "README.md").read_text()


def train_style(folder: Path) -> None:
    """A LoRA in diffusers' own format that takes the colour out of pictures; 40 steps."""
    pipeline = opened()
    transformer, vae = pipeline.transformer, pipeline.vae
    with torch.no_grad():
        grey = torch.from_numpy(pictures(pipeline, STYLED, 8)).mean(-1, keepdim=True).expand(-1, -1, -1, 3)
        latents = vae.encode(grey.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        x_0 = pipeline._pack_latents(latents, *latents.shape)
        ids = pipeline._prepare_latent_image_ids(len(x_0), 8, 8, "cpu", torch.float32)
        embeds, pooled, text_ids = pipeline.encode_prompt(STYLED, None, max_sequence_length=32)
    inside = r"(single_)?transformer_blocks\..*\.(to_q|to_k|to_v|to_out\.0|proj_out|ff\.net\.2)"
    transformer.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=inside))
    trained = [value for value in transformer.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        sigma = torch.rand(len(x_0), generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        velocity = transformer(
            hidden_states=torch.lerp(x_0, noise, sigma[:, None, None]), timestep=sigma,
            guidance=torch.full_like(sigma, 3.5), encoder_hidden_states=embeds, pooled_projections=pooled,
            img_ids=ids, txt_ids=text_ids, return_dict=False,
        )[0]  # fmt: skip
        loss = (velocity - (noise - x_0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    FluxPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(transformer))


@pytest.mark.long
def test_the_whole_chain(cli, tmp_path):
    """Distilled, resumed, sampled with new prompts, styled, measured, inspected, exported, and drawn elsewhere."""

    def run(*given: object) -> dict:
        outcome = cli(*map(str, given), "--json", "--quiet")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{text}\n" for text in STYLED))
    small = ["--prompts", prompts, "--set", "data.cache=" + str(tmp_path / "cache"), "--set", "output.preview_every=0"]
    small += ["--set", "optimisation.batch_size=2", "--set", "optimisation.device_batch_size=2"]
    student = tmp_path / "student"
    distil = ["distill", "--teacher", "emoji", *small, "--set", "optimisation.schedule=constant", "--output", student]
    assert run(*distil, "--iterations", 3)["iterations"] == 3
    assert run(*distil, "--iterations", 5)["iterations"] == 5
    steps = [json.loads(line)["iteration"] for line in (student / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]

    drawn = tmp_path / "drawn"
    run("sample", student, *ASKED, "--seeds", "0", "--output", drawn)
    check_colours(*drawn_in(drawn))

    train_style(tmp_path / "style")
    [style] = (tmp_path / "style").glob("*.safetensors")
    plain, styled = tmp_path / "in colour", tmp_path / "in grey"
    run("sample", student, *STYLED, "--seeds", "0", "--output", plain)
    run("sample", student, *STYLED, "--seeds", "0", "--lora", style, "--output", styled)
    assert saturation(styled) < 0.5 * saturation(plain)

    report = run(
        "eval", student, "--prompts", prompts, "--reference", "teacher", "--fine-steps", 8,
        "--metrics", "fid,alignment", "--extractor", "efficientnet-lite0", "--cache", tmp_path / "eval-cache",
        "--output", tmp_path / "report",
    )  # fmt: skip
    found = {one["metric"]: one["value"] for one in report["results"]}
    assert 0 < found["mse"] < 0.2 and found["fid"] > 0

    run("inspect-policy", student, "--prompts", prompts, "--output", tmp_path / "inspected")
    policy = json.loads((tmp_path / "inspected" / "policy.json").read_text())
    assert [len(one["steps"]) for one in policy["students"]] == [4]

    run("export", student, "--format", "pipeline", "--output", tmp_path / "export")
    script = tmp_path / "draw.py"
    script.write_text(PLAIN)
    python = plain_environment(tmp_path / "plain")
    run_plain(python, script, tmp_path / "export", tmp_path / "heart.npy", cache=tmp_path)
    heart = np.load(tmp_path / "heart.npy")
    assert heart[24:40, 24:40].mean((0, 1))[0] > 0.8


@pytest.mark.long
@pytest.mark.parametrize("preset", ["emoji-1nfe", "emoji-dx", "emoji-momentum"])
def test_a_student_of_every_preset_opens_and_draws(cli, tmp_path, preset: str):
    """The head of DX is a wider projection, which the config says and the teacher's does not."""
    (tmp_path / "prompts.txt").write_text("red heart\n")
    small = ["--set", "optimisation.batch_size=1", "--set", "optimisation.device_batch_size=1", "--iterations", "1"]
    told = ["--prompts", str(tmp_path / "prompts.txt"), "--cache", str(tmp_path / "cache"), *small]
    run = str(tmp_path / "run")
    outcome = cli("distill", "--teacher", preset, *told, "--output", run, "--quiet")
    assert outcome.code == 0, outcome.err
    outcome = cli("sample", run, "red heart", "--output", str(tmp_path / "drawn"), "--quiet")
    assert outcome.code == 0, outcome.err
    assert len(drawn_in(tmp_path / "drawn")) == 1
