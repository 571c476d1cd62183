"""Stage `write`: the folders that ship, two stock pipelines that differ in their transformers, and prompts."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import diffusers
import torch

from ...system.files import replacing_folder
from ...teachers.base import Network
from .autoencoder import load_autoencoder
from .data import load_names
from .guidance import load_student
from .network import new_scheduler
from .recipe import Recipe
from .teacher import load_teacher
from .tokenizers import CLIP, T5, load_tokenizers

DISTILLED, TWO_HALVES = "emoji", "emoji-cfg"
ATTRIBUTION = """\
Trained on pictures of Noto Emoji (github.com/googlefonts/noto-emoji), copyright Google LLC, licensed under the Apache
License, Version 2.0 (apache.org/licenses/LICENSE-2.0), as the npm package emoji-datasource-google 16.0.0 holds them in
64 x 64 pixels. What was changed: they were composited on white, and networks were trained on them and on captions made
from the package's names and categories. The pictures themselves are not shipped. Pictures that the networks draw may
resemble them closely.
"""
README = """\
# emoji

A small FLUX that draws emoji of 64 x 64 pixels, made by `python -m piflow_cli.embedded.emoji` (training.json says how).
It is a stock pipeline of diffusers, with guidance as an input of the transformer:

    pipeline = FluxPipeline.from_pretrained("emoji")
    pipeline("grinning face", height=64, width=64, guidance_scale=3.5, max_sequence_length=32)

`max_sequence_length=32` is the padding that it was mostly trained with; the pipeline's default of 512 is slower.

## Attribution

"""
README_TWO_HALVES = """\
# emoji-cfg

The teacher of `emoji` before its guidance was distilled: it has no guidance input, and is guided by two evaluations.
Encoders, tokenizers and VAE are those of `emoji`:

    pipeline = FluxPipeline.from_pretrained("emoji-cfg")
    pipeline("grinning face", negative_prompt="", true_cfg_scale=3.5, height=64, width=64, max_sequence_length=32)

## Attribution

"""
PROMPTS = "prompts.txt"


def write_pipelines(work: Path, output: Path, recipe: Recipe, facts: dict[str, Any]) -> None:
    """Write both folders into ``output``, in bfloat16; ``facts`` go into training.json, prompts into `emoji`."""
    teacher, student = load_teacher(work, recipe), load_student(work, recipe)
    clip, t5 = load_tokenizers(work / "data")
    kind: Network = diffusers.FluxPipeline
    others = {
        "scheduler": new_scheduler(recipe.teacher),
        "vae": load_autoencoder(work, recipe.autoencoder, facts["autoencoder"]),
        "text_encoder": teacher.text.clip,
        "tokenizer": clip,
        "text_encoder_2": teacher.text.t5,
        "tokenizer_2": t5,
    }
    networks = {DISTILLED: (student, README), TWO_HALVES: (teacher.transformer, README_TWO_HALVES)}
    for name, (transformer, readme) in networks.items():
        pipeline = kind(transformer=transformer, **others).to(torch.bfloat16)
        with replacing_folder(output / name) as aside:
            pipeline.save_pretrained(aside)
            _use_tokenizers(aside, work / "data")
            _open_in_float32(aside)
            _describe(aside, readme, facts)
            if name == DISTILLED:
                (aside / PROMPTS).write_text("".join(f"{text}\n" for text in prompts(work / "data")), encoding="utf-8")


def prompts(data: Path) -> list[str]:
    """A prompt for every name, and for every name that has skin tones one more, with each of them in turn."""
    names = load_names(data)
    bare = [texts[0] for texts in names]
    toned = [texts[number % (len(texts) - 1) + 1] for number, texts in enumerate(names) if len(texts) > 1]
    return list(dict.fromkeys([*bare, *toned]))


def _use_tokenizers(folder: Path, data: Path) -> None:
    """The tokenizers as they were written, and a name of their class that transformers 4 knows too."""
    for name in (CLIP, T5):
        rmtree(folder / name)
        copytree(data / name, folder / name)
    _amend(folder / "model_index.json", tokenizer_2=["transformers", "PreTrainedTokenizerFast"])


def _open_in_float32(folder: Path) -> None:
    """Where no dtype is named, transformers 5 opens encoders in their config's, and diffusers its models in float32."""
    for name in ("text_encoder", "text_encoder_2"):
        _amend(folder / name / "config.json", dtype="float32")


def _amend(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}, indent=2) + "\n", encoding="utf-8")


def _describe(folder: Path, readme: str, facts: dict[str, Any]) -> None:
    (folder / "README.md").write_text(readme + ATTRIBUTION, encoding="utf-8")
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)


def open_pipeline(output: Path, name: str, device: torch.device) -> Network:
    """One of the two as a user opens it, in float32."""
    pipeline: Network = diffusers.FluxPipeline
    return pipeline.from_pretrained(output / name).to(device)
