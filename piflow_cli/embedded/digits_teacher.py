"""Train the digits teacher: a small DiT flow model of the UCI optical digits, by flow matching.

    python -m piflow_cli.embedded.digits_teacher --output DIR

With --predicts epsilon-linear, v-linear or edm the same network becomes no flow model but a DDPM or EDM, a teacher of
the families dit-epsilon, dit-v and dit-edm: piflow distill --teacher digits --set teacher.family=dit-v --base DIR.

The defaults are the run that made the weights in presets/digits/. Loss: |u(x_sigma, sigma, class) - (eps - x_0)|^2 with
x_sigma = (1 - sigma) x_0 + sigma eps and uniform sigma (Lipman et al., arXiv 2210.02747; Liu et al., arXiv 2209.03003).
Labels are dropped at random, so that the one network also gives the unconditional velocity that guidance needs
(Ho and Salimans, arXiv 2207.12598).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ..core.parameterisations.base import Parameterisation
from ..core.parameterisations.kinds import FLOW, ROWS, parameterisation_of
from ..presets.folders import presets_root
from ..system.files import replacing_file
from ..teachers.dit_network import DiT
from .digits_diffusion import diffusion_loss

PROGRAM = "python -m piflow_cli.embedded.digits_teacher"
NUM_CLASSES = 10
CPU = torch.device("cpu")

Velocity = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""States (B, C, H, W), noise levels (B,) and labels (B,) → what a network predicts, (B, C, H, W)."""


@dataclass(frozen=True)
class TeacherRecipe:
    """Every setting that shapes the weights, without the data; `iterations` also sets the learning-rate schedule."""

    iterations: int = 8_000
    batch_size: int = 128
    lr: float = 1.5e-3
    warmup: int = 200
    ema: float = 0.999
    class_dropout: float = 0.1
    seed: int = 0


def load_digits(folder: Path | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The 1,797 digits as float32 (N, 1, 8, 8) in [-1, 1] and their labels (N,), int64; by default those shipped."""
    folder = presets_root() / "digits" if folder is None else folder
    tensors = load_file(folder / "images.safetensors")
    return tensors["images"].float()[:, None] / 8 - 1, tensors["labels"].long()


def new_teacher() -> DiT:
    size = {"num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 32}
    return DiT(sample_size=8, patch_size=2, in_channels=1, num_classes=NUM_CLASSES, **size)


def learning_rate(iteration: int, recipe: TeacherRecipe) -> float:
    """Linear warm-up, then a cosine to zero at the last iteration."""
    cosine = 0.5 * (1 + math.cos(math.pi * iteration / recipe.iterations))
    return recipe.lr * cosine * min(1.0, (iteration + 1) / recipe.warmup)


def flow_matching_loss(
    model: Velocity,
    x_0: torch.Tensor,
    labels: torch.Tensor,
    class_dropout: float,
    generator: torch.Generator,
    parameterisation: Parameterisation | None = None,
) -> torch.Tensor:
    """Flow matching, or the loss of another ``parameterisation``; what is drawn is on the host, wherever a model is."""
    batch = x_0.shape[0]
    # Even strata with one draw each: the same uniform density, less noise in the loss.
    sigma = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    noise = torch.randn(x_0.shape, generator=generator)
    dropped = torch.rand(batch, generator=generator) < class_dropout
    labels = labels.masked_fill(dropped, NUM_CLASSES)
    if parameterisation is not None and not parameterisation.flow:
        return diffusion_loss(model, x_0, labels, sigma, noise, parameterisation)
    spread = sigma[:, None, None, None]
    velocity = model((1 - spread) * x_0 + spread * noise, sigma, labels)
    return F.mse_loss(velocity, (noise - x_0).to(velocity.device))


Checkpoint = Callable[[DiT, int, float], None]


def on_host(model: DiT, device: torch.device) -> Velocity:
    """``model``, which is on ``device``, for states, noise levels and labels on the host."""
    return lambda x, sigma, labels: model(x.to(device), sigma.to(device), labels.to(device))


def train(
    recipe: TeacherRecipe,
    images: torch.Tensor,
    labels: torch.Tensor,
    checkpoint: Checkpoint,
    every: int,
    predicts: str = FLOW,
    device: torch.device = CPU,
) -> None:
    """Train on `images` (N, 1, 8, 8) and `labels` (N,); `predicts` is a row of the parameterisations.

    `checkpoint(EMA of the weights, iterations done, recent loss)` is called every `every` iterations and at the end.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = new_teacher().to(device).train()
    called = on_host(model, device)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    running = 0.0
    for iteration in range(recipe.iterations):
        done = iteration + 1
        optimizer.param_groups[0]["lr"] = learning_rate(iteration, recipe)
        chosen = torch.randint(len(images), (recipe.batch_size,), generator=generator)
        batch = images[chosen], labels[chosen]
        loss = flow_matching_loss(called, *batch, recipe.class_dropout, generator, parameterisation_of(predicts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # A short memory at first, or the random start would linger in the average.
        decay = min(recipe.ema, done / (done + 9))
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        running += (loss.item() - running) / min(done, 100)
        if done % every == 0 or done == recipe.iterations:
            checkpoint(ema, done, running)


def save_teacher(model: DiT, folder: Path, recipe: TeacherRecipe, done: int, predicts: str) -> None:
    """Write config.json and the weights; the metadata names the program and what it was told."""
    metadata = {
        "format": "pt",
        "program": PROGRAM,
        "recipe": json.dumps(asdict(recipe)),
        "iterations_done": str(done),
        "predicts": predicts,
        "torch": torch.__version__,
    }
    with replacing_file(folder / "config.json") as aside:
        aside.write_text(model.to_json_string(), encoding="utf-8")
    with replacing_file(folder / "diffusion_pytorch_model.safetensors") as aside:
        save_file(model.state_dict(), aside, metadata)
        aside.chmod(0o644)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Train the digits teacher.")
    parser.add_argument("--output", type=Path, required=True, help="folder for config.json and the weights")
    parser.add_argument("--data", type=Path, help="folder that holds images.safetensors; default: the shipped one")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; another number rounds differently")
    parser.add_argument("--device", type=torch.device, default=CPU, help="where it is trained, cpu or cuda")
    parser.add_argument("--every", type=int, default=500, help="iterations from one checkpoint to the next")
    parser.add_argument("--predicts", choices=sorted(ROWS), default=FLOW, help="what the network predicts")
    for field in fields(TeacherRecipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    recipe = TeacherRecipe(**{field.name: getattr(arguments, field.name) for field in fields(TeacherRecipe)})

    def checkpoint(ema: DiT, done: int, loss: float) -> None:
        save_teacher(ema, arguments.output, recipe, done, arguments.predicts)
        print(f"iteration {done} of {recipe.iterations}, loss {loss:.4f}", file=sys.stderr, flush=True)

    train(recipe, *load_digits(arguments.data), checkpoint, arguments.every, arguments.predicts, arguments.device)


if __name__ == "__main__":
    main()
