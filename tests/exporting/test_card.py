"""Model cards: tags that the Hub reads, facts, a picture, and a snippet that runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from zoo import ZOO, disturb
from zoo import student_of as adapted

from piflow_cli.console import Console
from piflow_cli.errors import UsageError
from piflow_cli.exporting.card import license_tags, unguided, write_card
from piflow_cli.exporting.driver import export
from piflow_cli.exporting.early import is_of_export
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.exporting.formats.adapter import AdapterFormat
from piflow_cli.exporting.request import CARD_NAME, ExportRequest
from piflow_cli.presets.resolve import available, load
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.student import Student, student_of
from piflow_cli.teachers import family_of
from piflow_cli.teachers.text_to_image import TextToImageFamily
from piflow_cli.weights.digests import write_manifest
from piflow_cli.weights.locate import locate


def card_of(folder: Path, facts: StudentFacts, **export: object) -> ModelCard:
    snippet = AdapterFormat().snippet(facts, "me/student")
    told = {"format": "adapter", **export}
    write_card(folder, facts, "student", snippet, told, FORMATS[told["format"]], folder, None)
    return ModelCard.load(folder / "README.md")


@pytest.mark.parametrize("name", available())
def test_every_preset_has_a_card_that_the_hub_can_read(name: str, tmp_path) -> None:
    preset = load(name)
    facts = StudentFacts.of(preset)
    card = card_of(tmp_path, facts)
    assert card.data.library_name == "diffusers" and "pi-flow" in card.data.tags and card.data.license
    shipped = facts.base.startswith("preset:")
    assert card.data.base_model == (None if shipped else "/".join(facts.base.split("/")[:2]))
    family = family_of(facts.family)
    told_a_text, video = isinstance(family, TextToImageFamily), preset.data.frames is not None
    edits = isinstance(family, TextToImageFamily) and family.shown
    assert (card.data.pipeline_tag == "text-to-image") == (told_a_text and not video and not edits)
    assert (card.data.pipeline_tag == "text-to-video") == video
    assert (card.data.pipeline_tag == "image-to-image") == edits
    shown = re.sub(r"\\(\W|_)", r"\1", card.text)
    for told in (facts.teacher, facts.base, preset.teacher.license, f"{facts.shift:g}", facts.temperature):
        assert f"| {told} |" in shown
    assert f"| network evaluations (NFE) | {facts.nfe} |" in card.text
    compile(card.text.split("```python\n")[1].split("```")[0], "snippet", "exec")
    # Without a list of files it may be anybody's clone of a repository.
    assert not is_of_export(tmp_path / CARD_NAME)
    write_manifest(tmp_path, [CARD_NAME])
    assert is_of_export(tmp_path / CARD_NAME) and not is_of_export(tmp_path.parent / CARD_NAME)


def test_a_card_asks_for_no_other_steps_than_its_scheduler_takes(tmp_path) -> None:
    facts = StudentFacts.of(load("flux-dev-dx"))
    assert (
        "with policies that span one step each: with more of them pictures get worse." in card_of(tmp_path, facts).text
    )
    text = card_of(tmp_path, facts, format="piflow-scheduler").text
    assert "4 network evaluations, no other number" in text and "pictures get worse" not in text


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC-BY-4.0 (data) / Apache-2.0 (weights)", {"license": "apache-2.0"}),
        (
            "FLUX.1 [dev] Non-Commercial License",
            {"license": "other", "license_name": "flux.1-dev-non-commercial-license"},
        ),
    ],
)
def test_licences_become_tags(text: str, tags: dict[str, str]) -> None:
    assert license_tags(text) == tags


def test_pipelines_are_told_not_to_guide() -> None:
    told = {name: unguided(family_of(name, 3.5)) for name in ("flux", "qwen-image", "z-image")}
    assert told == {"flux": "guidance_scale=3.5", "qwen-image": "true_cfg_scale=1", "z-image": "guidance_scale=0"}


def test_a_teacher_that_is_no_preset_leaves_the_licence_open(tmp_path) -> None:
    card = card_of(
        tmp_path, replace(StudentFacts.of(load("digits")), teacher="mine", iterations=0), rank=4, rank_error=0.0123
    )
    assert card.data.license is None and "| licence of the teacher | not said |" in card.text
    assert "| training iterations | not said |" in card.text and "| rank error | 0.0123 |" in card.text


@pytest.mark.parametrize(
    ("format", "told"),
    [
        ("adapter", "Trained for 4 network evaluations, with policies that span one step each"),
        ("piflow-scheduler", "4 network evaluations, no other number"),
    ],
)
def test_a_card_promises_other_steps_only_where_they_can_be_had(tmp_path, format: str, told: str) -> None:
    text = card_of(tmp_path, StudentFacts.of(load("flux-dev-dx")), format=format).text
    assert told in text and ("Trained for" in text) == (format != "piflow-scheduler")


def test_the_card_of_a_digits_student_has_a_picture_and_its_snippet_runs(tmp_path, monkeypatch) -> None:
    preset, family = load("digits"), family_of("dit")
    student = student_of(
        family.load(locate(preset.teacher.base)), family, replace(StudentFacts.of(preset), iterations=7), seed=0
    )
    save_adapter(student, tmp_path / "adapter")
    asked = ExportRequest(str(tmp_path / "adapter"), "adapter", tmp_path / "out", device="cpu")
    export(asked, Console(quiet=True))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "![Samples](samples.png)" in card.text and "| training iterations | 7 |" in card.text
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.size == (640, 256)
    scope: dict = {}
    # The card names no folder of this machine.
    assert str(tmp_path) not in card.content
    monkeypatch.chdir(tmp_path)
    exec(card.text.split("```python\n")[1].split("```")[0], scope)
    assert [(image.mode, image.size) for image in scope["images"]] == [("L", (8, 8))] * 3
    with pytest.raises(UsageError, match="--prompt: the student is told class labels"):
        export(replace(asked, output=tmp_path / "other", prompts=("a fox",)), Console(quiet=True))


@pytest.mark.parametrize("name", ["flux", "sd15", "wan-a14b"])
def test_the_snippet_of_a_student_runs_the_stock_pipeline(name, tmp_path, monkeypatch) -> None:
    """Only the text encoders and the VAE are stood in for: the call gets embeddings, and ends in latents."""
    row = ZOO[name]
    row.save(tmp_path / "base")
    student = adapted(row, row.build())
    disturb(student)
    family, facts = student.family, replace(student.facts, base=str(tmp_path / "base"))
    save_adapter(Student(family, student.model, facts), tmp_path / "adapter")
    stock, size = family.pipeline_class, {"height": 64, "width": 96}
    frames = {"num_frames": row.frames} if row.makes_videos else {}

    class Pipeline:
        @staticmethod
        def from_pretrained(base, *, torch_dtype, **given):
            assert (base, torch_dtype) == (facts.base, torch.bfloat16)
            assert family.own_parts.keys() <= given.keys()
            absent = dict.fromkeys(stock._get_signature_keys(stock)[0])
            pipeline = stock(**{**absent, **family.pipeline_options, **given})
            text = {name: value[None].to(torch_dtype) for name, value in row.encode(7).items()}

            def call(prompt, output_type="pil", **options):
                assert options["num_inference_steps"] == 2 and options["guidance_scale"] in (1.0, 3.5)
                told = {**family.pipeline_inputs(text), **options, **size, **frames}
                assert torch.isfinite(pipeline(**told, output_type="latent")[0]).all()
                picture = Image.new("RGB", (8, 8))
                return SimpleNamespace(images=[picture], frames=[[picture, picture]])

            return SimpleNamespace(to=lambda device: call)

    monkeypatch.setattr(diffusers, family.pipeline_name, Pipeline)
    monkeypatch.chdir(tmp_path)
    exec(AdapterFormat().snippet(facts, str(tmp_path / "adapter")), {})
    assert (tmp_path / ("fox.gif" if row.makes_videos else "fox.png")).is_file()
