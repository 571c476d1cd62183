"""Train the classifier of the UCI optical digits, whose features tell digits apart better than pixels do.

    python -m piflow_cli.embedded.digits_classifier --output DIR

The defaults are the run that made presets/digits/classifier.safetensors. Every sixth image is held out; the accuracy on
those is in the metadata of the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ..data.labelled_images import load_images
from ..evaluation.extractors.digits_classifier import FILE, DigitsNet
from ..presets.folders import presets_root
from ..system.files import replacing_file

PROGRAM = "python -m piflow_cli.embedded.digits_classifier"
HELD_OUT = 6


@dataclass(frozen=True)
class ClassifierRecipe:
    """Every setting that shapes the weights, without the data."""

    iterations: int = 1_500
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-2
    noise: float = 0.1
    dropout: float = 0.2
    smoothing: float = 0.1
    seed: int = 0


def split(count: int) -> tuple[Tensor, Tensor]:
    """Places for training and places held out, of ``count`` images: every sixth is held out."""
    places = torch.arange(count)
    return places[places % HELD_OUT != 0], places[places % HELD_OUT == 0]


def train(recipe: ClassifierRecipe, images: Tensor, labels: Tensor) -> DigitsNet:
    """A classifier of ``images`` (N, 1, 8, 8) in [-1, 1] and their labels (N,), in evaluation mode."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    network = DigitsNet(recipe.dropout).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    for iteration in range(recipe.iterations):
        # A cosine to zero, so that the last weights are also good ones.
        optimizer.param_groups[0]["lr"] = recipe.lr * 0.5 * (1 + math.cos(math.pi * iteration / recipe.iterations))
        chosen = torch.randint(len(images), (recipe.batch_size,), generator=generator)
        noised = images[chosen] + recipe.noise * torch.randn(images[chosen].shape, generator=generator)
        loss = F.cross_entropy(network(noised), labels[chosen], label_smoothing=recipe.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(network: DigitsNet, images: Tensor, labels: Tensor) -> float:
    """The share of images whose most likely class is their label."""
    return (network(images).argmax(dim=1) == labels).double().mean().item()


def save_classifier(network: DigitsNet, path: Path, recipe: ClassifierRecipe, held_out: float) -> None:
    """Write the weights; the metadata names the program, what it was told, and the accuracy on the images held out."""
    metadata = {"format": "pt", "program": PROGRAM, "recipe": json.dumps(asdict(recipe)), "torch": torch.__version__}
    with replacing_file(path) as aside:
        save_file(network.state_dict(), aside, {**metadata, "held_out_accuracy": f"{held_out:.4f}"})
        aside.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Train the classifier of digits.")
    parser.add_argument("--output", type=Path, required=True, help=f"folder for {FILE}")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number rounds differently")
    for field in fields(ClassifierRecipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = ClassifierRecipe(**{field.name: getattr(arguments, field.name) for field in fields(ClassifierRecipe)})
    images, labels = load_images(presets_root() / "digits" / "images.safetensors")
    training, held_out = split(len(images))
    network = train(recipe, images[training], labels[training])
    share = accuracy(network, images[held_out], labels[held_out])
    save_classifier(network, arguments.output / FILE, recipe, share)
    print(f"{share:.4f} of {len(held_out)} images held out are classified right", file=sys.stderr)


if __name__ == "__main__":
    main()
