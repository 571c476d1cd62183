"""A shipped FLUX pipeline with a VAE of factor 4 and short texts, from the preset to what stock diffusers draws."""

from __future__ import annotations

import json
import re
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from shipped_pipeline import FACTOR, SIDE, WORDS, shipped_pipeline
from torch import Tensor

from piflow_cli.console import Console
from piflow_cli.errors import UsageError
from piflow_cli.exporting.verify import reading_back
from piflow_cli.presets.resolve import load
from piflow_cli.sampling.denoise import seeded_generators, seeded_noise
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.sampling.text import text_teacher_sampler
from piflow_cli.system.group import Processes
from piflow_cli.teachers import family_of
from piflow_cli.teachers.packing import pack
from piflow_cli.weights.digests import read_manifest
from piflow_cli.weights.locate import locate

PROMPT, LONG = "a red fox", "fox " * 40
LATENTS = (4, SIDE // FACTOR, SIDE // FACTOR)


@pytest.fixture(params=["flux", "flux-cfg"])
def pipeline(request, tmp_path, monkeypatch) -> Path:
    """The folder of the pipeline that is shipped as ``preset:small``."""
    return shipped_pipeline(request.param, tmp_path, monkeypatch)


def told(folder: Path, text: str, words: int, prefix: str = "") -> dict[str, Tensor]:
    """What the stock pipeline in ``folder`` makes of a text in the bfloat16 of piflow's encoders, for the network."""
    absent = {"transformer": None, "vae": None, "scheduler": None}
    stock = diffusers.FluxPipeline.from_pretrained(folder, **absent, torch_dtype=torch.bfloat16)
    with torch.no_grad():
        embeds, pooled, _ = stock.encode_prompt(text, max_sequence_length=words)
    return {f"{prefix}prompt_embeds": embeds.float(), f"{prefix}pooled_prompt_embeds": pooled.float()}


def noise(*seeds: int) -> Tensor:
    return seeded_noise(seeded_generators(seeds), LATENTS)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_the_teacher_is_drawn_as_its_stock_pipeline_draws_it(pipeline: Path) -> None:
    """Two halves of guidance too, against the empty prompt; a long prompt is cut where the stock pipeline cuts it."""
    preset = load("small")
    section = preset.teacher
    family = family_of(section.family, section.guidance)
    asked = SampleRequest(teacher="small", prompts=(PROMPT, LONG), seeds=(4,), steps=3, device="cpu")
    sampler = text_teacher_sampler(asked, preset, family, {}, Processes(torch.device("cpu")), Console(quiet=True))
    assert [spec.size for spec in sampler.specs] == [(SIDE, SIDE)] * 2
    stock = diffusers.FluxPipeline.from_pretrained(pipeline)
    guided = {"guidance_scale": 3.5}
    if section.family == "flux-cfg":
        guided = {"true_cfg_scale": 4.0, **told(pipeline, "", WORDS, "negative_")}
    for spec in sampler.specs:
        theirs = stock(
            **told(pipeline, spec.text, WORDS), **guided, height=SIDE, width=SIDE, num_inference_steps=3,
            latents=pack(noise(4)), output_type="pt",
        )  # fmt: skip
        ours = (sampler.draw([spec]) / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(ours, theirs.images, rtol=0, atol=1e-5)


def test_a_plan_counts_its_sizes(cli, pipeline: Path, tmp_path) -> None:
    (tmp_path / "prompts.txt").write_text("a fox\na cat\n")
    outcome = cli("distill", "--teacher", "small", "--prompts", str(tmp_path / "prompts.txt"), "--dry-run", "--json")
    plan = json.loads(outcome.out)
    assert plan["data"]["sizes"] == f"{SIDE}x{SIDE}"
    assert plan["disk"]["cache, each text, at most"] == 2 * (WORDS * 32 + 24)
    for side, message in ((SIDE + 4, f"no multiple of {2 * FACTOR}"), (SIDE + 2 * FACTOR, None)):
        outcome = cli(
            "distill", "--teacher", "small", "--set", f"data.resolution={side}", "--prompts",
            str(tmp_path / "prompts.txt"), "--dry-run", "--json",
        )  # fmt: skip
        assert (outcome.code == 0) == (message is None) and (message is None or message in outcome.err)


def test_pictures_are_encoded_at_its_factor(cli, pipeline: Path, tmp_path) -> None:
    """What training from pictures has in its cache is what the stock VAE makes of them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (SIDE, SIDE), "red").save(folder / "a.png")
    (folder / "a.txt").write_text(PROMPT)
    factory = family_of(load("small").teacher.family).encoders(load("small").teacher)
    assert factory.latent_shape(SIDE, SIDE) == LATENTS
    outcome = cli("distill", "--teacher", "small", "--data", str(folder), "--quiet", "--output", str(tmp_path / "run"))
    assert outcome.code == 0, outcome.err
    assert Image.open(tmp_path / "run" / "samples.png").size[0] > SIDE


@pytest.fixture
def run(cli, pipeline: Path, tmp_path) -> Path:
    """A student of it, hardly trained from prompts."""
    (tmp_path / "prompts.txt").write_text(f"a fox\na cat\nred\nred cat\n{LONG}\n")
    asked = ["--teacher", "small", "--prompts", str(tmp_path / "prompts.txt"), "--output", str(tmp_path / "run")]
    outcome = cli("distill", *asked, "--set", "output.preview_every=1")
    assert outcome.code == 0, outcome.err
    assert f"of which {WORDS} are read" in outcome.err
    return tmp_path / "run"


def test_a_student_is_sampled_measured_and_exported(cli, pipeline: Path, run: Path, tmp_path, monkeypatch) -> None:
    """The export needs neither the preset's folder nor piflow's names: the card's call draws the student's picture."""
    assert cli("sample", str(run), PROMPT, "--seeds", "4", "--output", str(tmp_path / "ours"), "--quiet").code == 0
    ours = pixels(tmp_path / "ours" / "0000-000004.png")
    assert ours.shape == (SIDE, SIDE, 3)
    refused = cli("sample", str(run), PROMPT, "--width", "20", "--output", str(tmp_path / "none"))
    assert refused.code == 2 and f"no multiple of {2 * FACTOR} pixels" in refused.err and "--width 16" in refused.err
    measured = cli(
        "eval", str(run), "--prompts", str(tmp_path / "prompts.txt"), "--metrics", "trajectory,pr",
        "--extractor", "pixels", "--teacher-steps", "2", "--output", str(tmp_path / "eval"), "--json",
    )  # fmt: skip
    assert measured.code == 0, measured.err

    made = tmp_path / "export"
    assert cli("export", str(run), "--format", "pipeline", "--output", str(made), "--quiet").code == 0
    texts = pipeline.rename(tmp_path / "gone")
    card = (made / "README.md").read_text()
    assert f"height={SIDE}, width={SIDE}, max_sequence_length={WORDS}" in card
    files = [path for path in made.rglob("*") if path.suffix in (".json", ".py", ".md")]
    assert not any(str(tmp_path) in path.read_text() for path in files)
    with reading_back():
        plain = DiffusionPipeline.from_pretrained(made, trust_remote_code=True)

        def drawn(text: str, max_sequence_length: int, **options: float) -> Image.Image:
            given = told(texts, text, max_sequence_length)
            return plain(**given, **options, latents=pack(noise(4))).images[0]

        theirs = eval(f"drawn({re.search(r'pipeline.(.*).[.]images', card)[1]})", {"drawn": drawn})
    assert abs(np.asarray(theirs).astype(int) - ours).max() <= 1


@pytest.mark.parametrize("format", ["adapter", "merged", "pipeline"])
def test_cards_and_no_base(cli, pipeline: Path, run: Path, tmp_path, format: str) -> None:
    """A base of ours is found by piflow alone, so that no other reader is sent to it."""
    made = tmp_path / "export"
    assert cli("export", str(run), "--format", format, "--output", str(made), "--quiet").code == 0
    snippet = (made / "README.md").read_text().split("```python\n")[1].split("```")[0]
    compile(snippet, "snippet", "exec")
    assert f"height={SIDE}, width={SIDE}, max_sequence_length={WORDS}" in snippet
    assert ("locate('preset:small')" in snippet) == (format != "pipeline")
    assert locate("preset:small") == pipeline
    if format == "pipeline":
        refused = cli("export", str(run), "--format", format, "--no-base", "--output", str(tmp_path / "other"))
        assert refused.code == 2 and "the base preset:small comes with piflow" in refused.err
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("file", ["vae/config.json", "tokenizer_2/tokenizer.json", "text_encoder/model.safetensors"])
def test_a_damaged_part_is_noticed(cli, pipeline: Path, tmp_path, file: str) -> None:
    path = pipeline / file
    path.write_bytes(path.read_bytes() + b" ")
    outcome = cli("sample", "--teacher", "small", PROMPT, "--steps", "1", "--output", str(tmp_path / "out"))
    assert outcome.code == 1 and f"{path} is damaged: it is not the file that came with piflow" in outcome.err


def test_other_files_of_the_same_name_have_another_cache(pipeline: Path, monkeypatch) -> None:
    """A later piflow may ship other weights under the same name; those of the transformer do not matter to it."""
    section = load("small").teacher
    family = family_of(section.family)
    before = family.encoders(section).identity
    assert before["model"] == "preset:small"
    listed = read_manifest(pipeline.parent)
    for name, same in (("transformer/config.json", True), ("vae/config.json", False)):
        monkeypatch.setattr("piflow_cli.weights.digests._shipped", lambda root: listed | {f"small/{name}": "0" * 64})
        monkeypatch.setattr("piflow_cli.weights.locate.check_shipped", lambda paths: None)
        assert (family.encoders(section).identity == before) == same


@pytest.mark.parametrize(("name", "other"), [("flux", "flux-cfg"), ("flux-cfg", "flux")])
def test_a_family_refuses_the_other_kind_of_network(name: str, other: str, tmp_path, monkeypatch) -> None:
    folder = shipped_pipeline(other, tmp_path, monkeypatch)
    with pytest.raises(UsageError, match=f"unlike those of the family {name}") as caught:
        family_of(name).outline(folder)
    mode = "embedded" if other == "flux" else "plain"
    assert caught.value.hint.endswith(f"--set teacher.family={other} --set teacher.guidance_mode={mode}")
