"""Exported folders where piflow is not installed: what diffusers alone makes of them is what the student makes here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import diffusers
import pytest
import torch
from exports import LABELS, PIPELINES, export, noise, own_samples, student, told, whole_base
from helpers import GOLDEN, golden
from plain_environment import plain_environment, run_plain
from tiers import SHOWN
from torch import Tensor
from zoo import ZOO

from piflow_cli.students.open import open_student
from piflow_cli.students.shared_base import root
from piflow_cli.students.student import Student
from piflow_cli.teachers.packing import pack
from piflow_cli.teachers.text_to_image import TextToImageFamily

SCRIPT = Path(__file__).parents[1] / "plain_diffusers.py"
# The stock pipeline of LongCat-Image takes prompts alone: given embeddings it counts prompts, of which there are none.
# Without accelerate, which is not installed there, diffusers opens no network of Krea 2's class.
# Nor does it load networks that keep layers in float32 without accelerate, as Wan's and Kandinsky's.
NOT_PLAIN = ("longcat-image", "krea2", "wan", "wan-ti2v", "wan-a14b", "kandinsky6")
PLAIN = [name for name in PIPELINES if name not in NOT_PLAIN]
# Of the other families one policy in float32, where this is not to take minutes.
AT_LENGTH = [name for name in PLAIN if name in ("dit", *SHOWN)]


@dataclass
class Job:
    """What the plain environment is asked for, and what must come of it."""

    asked: dict
    expected: Tensor
    tolerance: float = 1e-4


def packed(which: Student, x: Tensor) -> Tensor:
    family = which.family
    return family.to_pipeline(x) if isinstance(family, TextToImageFamily) else x


def call(which: Student) -> dict:
    """What the pipeline of a student is called with, whole pictures of 64 x 96 pixels where it is told a text."""
    x = noise(which)
    steps = {"num_inference_steps": which.facts.nfe, "output_type": "latent", "latents": packed(which, x)}
    if which.facts.family == "dit":
        return {"class_labels": LABELS, **steps}
    given = {name: value for name, value in told(which).items() if not name.startswith("negative_")}
    row = ZOO[which.facts.family]
    size = {"height": row.factor * x.shape[-2], "width": row.factor * x.shape[-1]}
    frames = {"num_frames": row.frames} if row.makes_videos else {}
    return {**which.family.pipeline_inputs(given), **size, **frames, **steps}


def made_here(which: Student, base: Path | None, given: dict) -> Tensor:
    """What the student's own network and scheduler make of a call in the pipeline of its base."""
    if base is None:
        return own_samples(which)
    kind = which.family.pipeline_class
    parts = {
        which.family.component: root(which.model),
        "scheduler": which.scheduler(patch=which.family.token_positions),
    }
    index = json.loads((base / "model_index.json").read_text())
    absent = {name: None for name, value in index.items() if value == [None, None]}
    pipeline = kind.from_pretrained(base, **absent, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**given)[0]


def job(
    name: str, how: str, which: Student, folder: Path, tolerance: float = 1e-4, dtype: str = "float32", **more: object
) -> Job:
    base = Path(which.facts.base) if isinstance(which.family, TextToImageFamily) else None
    given = call(which)
    casts = not isinstance(which.family, TextToImageFamily) or which.family.casts_noise
    asked = {"name": name, "how": how, "folder": str(folder), "dtype": dtype, "call": given, "base": str(base), **more}
    asked["casts_noise"] = casts
    return Job(asked, made_here(which, base, given), tolerance)


def pipelines(folder: Path, bases: dict[str, Path], at_length: list[str]) -> list[Job]:
    """Every family and policy with its base, and those with adapters also without."""
    jobs = []
    for name in PLAIN:
        for policy in ("gm", "dx", "dx-poly", "momentum") if name in at_length else ("gm",):
            which = student(name, bases.get(name), policy)
            jobs.append(
                job(f"{name} {policy}", "pipeline", which, export(which, "pipeline", folder / f"{name}-{policy}"))
            )
        if name in bases and name in at_length:
            which = student(name, bases[name])
            place = export(which, "pipeline", folder / f"{name}-no-base", with_base=False)
            jobs.append(job(f"{name} no base", "pipeline", which, place))
    return jobs


def halves(folder: Path, bases: dict[str, Path], at_length: list[str]) -> list[Job]:
    """In 16 bits, from a base in float32 and from one in bfloat16."""
    jobs = []
    for name in at_length:
        which = student(name, bases.get(name))
        place = export(which, "pipeline", folder / f"{name}-bf16", dtype="bf16")
        # Rounded states, times and activations, through two evaluations; float32 weights would be off by as much.
        jobs.append(job(f"{name} bf16", "pipeline", which, place, 0.2, "bfloat16"))
    which = student("flux", bases["flux"])
    jobs.append(
        job("flux fp16", "pipeline", which, export(which, "pipeline", folder / "flux-fp16", dtype="fp16"), 1e-2)
    )
    return jobs


def networks(folder: Path, bases: dict[str, Path], at_length: list[str]) -> list[Job]:
    jobs = []
    for name in (name for name in ZOO if name in at_length):
        which = student(name, bases[name])
        jobs.append(job(f"{name} merged", "network", which, export(which, "merged", folder / f"{name}-merged")))
    which = student("flux", bases["flux"])
    place = export(which, "merged", folder / "flux-fp8", quantise="fp8")
    jobs.append(job("flux fp8", "network", which, place, 0.1))
    return jobs


def for_piflow_scheduler(folder: Path, bases: dict[str, Path]) -> list[Job]:
    """The network is called by hand: no pipeline but Kandinsky's lets that scheduler place its steps."""
    flux, dit = student("flux", bases["flux"], "dx"), student("dit", policy="dx")
    given = told(flux)
    ids = torch.zeros(4, 6, 3)
    ids[..., 1], ids[..., 2] = torch.arange(4)[:, None], torch.arange(6)
    inputs = {
        "encoder_hidden_states": given["prompt_embeds"],
        "pooled_projections": given["pooled_prompt_embeds"],
        "guidance": torch.full((2,), 3.5),
        "img_ids": ids.flatten(0, 1),
        "txt_ids": torch.zeros(given["prompt_embeds"].shape[1], 3),
    }
    jobs = []
    for which, stock, call in ((flux, True, inputs), (dit, False, {"class_labels": torch.tensor(LABELS)})):
        name = f"{which.facts.family} piflow-scheduler"
        asked = {
            "folder": str(export(which, "piflow-scheduler", folder / name)),
            "stock": stock,
            "call": call,
            "noise": packed(which, noise(which)),
        }
        jobs.append(
            Job(
                {"name": name, "how": "piflow-scheduler", "steps": which.facts.nfe, **asked},
                packed(which, own_samples(which)),
            )
        )
    return jobs


def from_a_prompt(folder: Path, bases: dict[str, Path]) -> list[Job]:
    """Nothing is given but words: text encoders, tokenizers and VAE are the base's, copied or where they were."""
    which = student("flux", bases["flux"])
    given = {
        "prompt": "a red fox",
        "height": 64,
        "width": 96,
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
        "output_type": "pt",
        "latents": pack(noise(which)[:1]),
    }
    picture = made_here(which, bases["flux"], given)
    assert picture.std() > 0.05
    return [
        Job(
            {
                "name": f"a prompt, {place}",
                "how": "pipeline",
                "casts_noise": True,
                "folder": str(folder / place),
                "dtype": "float32",
                "call": given,
            },
            picture,
            1e-3,
        )
        for place in ("flux-gm", "flux-no-base")
    ]


def published(folder: Path, bases: dict[str, Path]) -> list[Job]:
    """The golden adapter, against the latents of the implementation that wrote it."""
    numbers, tiny = golden("flux-tiny/outputs.safetensors"), GOLDEN / "flux-tiny"
    which = open_student(tiny / "adapter", base=str(tiny))
    place = export(which, "pipeline", folder / "published", base=str(tiny))
    jobs = []
    for nfe in (4, 6):
        given = {name: numbers[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
        picture = {
            "height": 64,
            "width": 96,
            "num_inference_steps": nfe,
            "guidance_scale": 3.5,
            "output_type": "latent",
        }
        asked = {
            "how": "pipeline",
            "casts_noise": True,
            "folder": str(place),
            "dtype": "float32",
            "call": {**given, **picture, "latents": pack(numbers["latents"])},
        }
        jobs.append(
            Job(
                {"name": f"published, {nfe} evaluations", **asked},
                pack(numbers[f"sample.nfe{nfe}.temperature_auto"]),
                5e-4,
            )
        )
    return jobs


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: whole_base(name, folder / name) for name in PIPELINES if name in ZOO}


@pytest.mark.long
@pytest.mark.parametrize("at_length", [AT_LENGTH, PLAIN], ids=["some", "all"])
def test_every_export_gives_the_same_latents_in_plain_diffusers(at_length, bases, tmp_path) -> None:
    """One test, since the environment's start takes longer than all the samples:
    a failure names the exports that differ."""
    jobs = [job for make in (pipelines, halves, networks) for job in make(tmp_path, bases, at_length)]
    makers = [from_a_prompt, published]
    if hasattr(diffusers, "PiflowScheduler"):
        makers.append(for_piflow_scheduler)
    jobs += [job for make in makers for job in make(tmp_path, bases)]
    torch.save([job.asked for job in jobs], tmp_path / "jobs.pt")
    run_plain(
        plain_environment(tmp_path / "plain"), SCRIPT, tmp_path / "jobs.pt", tmp_path / "results.pt", cache=tmp_path
    )
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    differences = {
        job.asked["name"]: (results[job.asked["name"]].float() - job.expected).abs().max() / job.expected.abs().max()
        for job in jobs
    }
    limits = {job.asked["name"]: job.tolerance for job in jobs}
    assert {name: value.item() for name, value in differences.items() if not value <= limits[name]} == {}
    assert len(differences) == len(jobs)
