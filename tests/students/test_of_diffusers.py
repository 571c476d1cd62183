"""DX students as diffusers has them, Kandinsky 6's: a wide network beside a PiflowScheduler."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import huggingface_hub
import pytest
import torch
from tiny_vae import tiny_vae
from torch import Tensor
from zoo import ZOO, conditioning, states, zoo_preset

from piflow_cli.core.timegrid import TimeGrid
from piflow_cli.errors import UsageError
from piflow_cli.presets.resolve import load
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.students.open import find_student, open_student

if not hasattr(diffusers, "PiflowScheduler"):
    pytest.skip("diffusers below 0.42 has no PiflowScheduler", allow_module_level=True)
ROW, POINTS, SHIFT = ZOO["kandinsky6"], 3, 5.0


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A pipeline with random weights whose network is a student, ``base`` beside it, and a preset for that."""
    folder = tmp_path_factory.mktemp("k6")
    zoo_preset(ROW, folder)
    tiny_vae(ROW.family).save_pretrained(folder / "base" / "vae")
    torch.manual_seed(1)
    wide = {f"out_{what}_dim": POINTS * ROW.config[f"in_{what}_dim"] for what in ("visual", "audio")}
    network = diffusers.Kandinsky6Transformer3DModel(**{**ROW.config, **wide})
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.05 * torch.randn_like(value))
    scheduler = diffusers.PiflowScheduler(shift=SHIFT, n_grid=POINTS, num_policy_substeps=32)
    empty = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    parts = {"transformer": network, "scheduler": scheduler, "vae": tiny_vae(ROW.family)}
    diffusers.Kandinsky6TI2VAPipeline(**parts, **empty).save_pretrained(folder / "student")
    # Fields of released configs of which the class knows nothing.
    changed(folder / "student" / "transformer" / "config.json", is_multimodal=True)
    return folder


def changed(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def preset_of(place: Path) -> str:
    return str(place / "tiny.yaml")


def by_diffusers(folder: Path, x: Tensor, given: dict[str, Tensor], steps: int) -> Tensor:
    empty = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = diffusers.Kandinsky6TI2VAPipeline.from_pretrained(folder, **empty)
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 96, "num_frames": 9, "num_inference_steps": steps, "output_type": "latent"}
    told = {name: given[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    return pipeline(**told, **size, guidance_scale=1.0, sample_audio=False, latents=x).frames


@pytest.mark.parametrize("inside", ["", "transformer"])
def test_a_published_student_samples_what_its_stock_pipeline_does(place: Path, inside: str) -> None:
    said: list[str] = []
    student = open_student(place / "student" / inside, teacher=preset_of(place), say=said.append)
    facts, nfe = student.facts, load(preset_of(place)).policy.nfe
    assert (facts.policy, facts.components, facts.nfe, facts.shift, facts.substeps) == ("dx", POINTS, nfe, SHIFT, 32)
    assert facts.segment == TimeGrid(nfe, 0.5, SHIFT).segment and facts.base == str(place / "base")
    assert said == ["the student does not say how it was trained: the values of the preset tiny hold"]
    # Texts of one length, since that pipeline takes embeddings without a mask.
    x, given = states(ROW), conditioning(ROW, (7, 7))
    expected = by_diffusers(place / "student", x, given, nfe)
    torch.testing.assert_close(sample_student(student, x, given), expected, rtol=1e-4, atol=1e-4)


def test_evaluations_are_those_that_a_scheduler_says(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "student", tmp_path / "student")
    changed(tmp_path / "student" / "scheduler" / "scheduler_config.json", nfe=3)
    facts = find_student(tmp_path / "student", preset_of(place)).facts
    assert (facts.nfe, facts.segment) == (3, TimeGrid(3, 0.5, SHIFT).segment)


def test_in_bfloat16_the_head_and_what_diffusers_opens_so_are_in_float32(place: Path) -> None:
    model = find_student(place / "student", preset_of(place)).load(precision="fp32").model
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    found = find_student(place / "student", preset_of(place))
    object.__setattr__(found.facts, "base_dtype", "bfloat16")
    half = found.load(precision="bf16").model
    whole = {name for name, value in half.named_parameters() if value.dtype == torch.float32}
    assert {name.rsplit(".", 1)[0] for name in whole} == {
        "out_layer.out_layer.grid", "out_layer.modulation.out_layer", "audio_out_layer.modulation.out_layer",
    }  # fmt: skip


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("transformer/config.json", {"out_visual_dim": 13}, "says out_visual_dim 13, which is not 3 points"),
        ("transformer/config.json", {"out_visual_dim": 8}, "says out_visual_dim 8, which is not 3 points"),
        ("transformer/config.json", {"model_dim": 48}, "the student has model_dim 48, and the base of the preset tiny"),
        ("scheduler/scheduler_config.json", {"n_grid": "ten"}, "is of no student: components is 'ten'"),
        ("scheduler/scheduler_config.json", {"shift": -1}, "is of no student: shift is -1"),
        ("scheduler/scheduler_config.json", FLOW, "is a whole pipeline of diffusers, not a student"),
    ],
)
def test_what_is_no_such_student_is_refused_in_one_line(
    cli, place: Path, tmp_path: Path, file: str, change: dict, message: str
) -> None:
    shutil.copytree(place / "student", tmp_path / "student")
    changed(tmp_path / "student" / file, **change)
    outcome = cli("inspect-policy", str(tmp_path / "student"), "--teacher", preset_of(place))
    assert outcome.code == 2 and message in " ".join(outcome.err.split())


def test_a_network_beside_another_scheduler_is_no_student(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "student", tmp_path / "student")
    changed(tmp_path / "student" / "scheduler" / "scheduler_config.json", **FLOW)
    with pytest.raises(UsageError, match="holds no student: the scheduler beside it is a FlowMatchEuler"):
        find_student(tmp_path / "student" / "transformer", preset_of(place))


def test_its_hub_id_is_enough(place: Path, tmp_path: Path, monkeypatch) -> None:
    asked, snapshot = [], tmp_path / "snapshot"
    snapshot.mkdir()

    def download(name: str, *, allow_patterns, **request) -> str:
        repository = place / "student"
        files = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        for file in huggingface_hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns):
            asked.append(file)
            (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / file, snapshot / file)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    found = find_student("owner/student", preset_of(place))
    assert found.facts.components == POINTS and found.folder == snapshot / "transformer"
    assert not any(file.startswith("vae/") and file.endswith(".safetensors") for file in asked)
