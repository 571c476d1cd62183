"""A small classifier of the UCI optical digits, whose features tell digits from digits better than pixels do.

    python -m piflow_cli.evaluation.digits_classifier --output DIR

The defaults are the run that made presets/digits/classifier.safetensors. Every sixth image is held out; the accuracy on those
is in the metadata of the weights.
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
from torch import Tensor, nn
from torch.nn import functional as F

from ..digests import check_shipped
from ..files import replacing_file
from ..labelled_images import load_images
from ..presets import presets_root
from ..weights import read_safetensors

PROGRAM = "python -m piflow_cli.evaluation.digits_classifier"
FILE = "classifier.safetensors"
CLASSES = 10
FEATURES = 64
HELD_OUT = 6


@dataclass(frozen=True)
class Recipe:
    """Everything but the data that shapes the weights."""

    iterations: int = 1_500
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-2
    noise: float = 0.1
    dropout: float = 0.2
    smoothing: float = 0.1
    seed: int = 0


class DigitsNet(nn.Module):
    """Three convolutions and one hidden layer, for images (B, 1, 8, 8) in [-1, 1]; the hidden layer has the features."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 48, 3, padding=1, stride=2)
        self.third = nn.Conv2d(48, 64, 3, padding=1, stride=2)
        self.hidden = nn.Linear(64 * 4, FEATURES)
        self.classes = nn.Linear(FEATURES, CLASSES)
        self.dropout = nn.Dropout(dropout)

    def features(self, images: Tensor) -> Tensor:
        """(B, 64), smooth and unbounded: a rectifier would fill the features with zeros, which no Gaussian fits."""
        x = images
        for layer in (self.first, self.second, self.third):
            x = F.silu(layer(x))
        return self.hidden(self.dropout(x.flatten(1)))

    def logits(self, features: Tensor) -> Tensor:
        """(B, 10)."""
        return self.classes(F.silu(features))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def shipped_classifier() -> Path:
    return presets_root() / "digits" / FILE


def load_classifier() -> DigitsNet:
    """The classifier that is shipped, in evaluation mode on the CPU; raises RunError where it is no longer that one."""
    check_shipped([shipped_classifier()])
    _, tensors = read_safetensors(shipped_classifier())
    network = DigitsNet()
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def split(count: int) -> tuple[Tensor, Tensor]:
    """Places for training and places held out, of ``count`` images: every sixth is held out."""
    places = torch.arange(count)
    return places[places % HELD_OUT != 0], places[places % HELD_OUT == 0]


def train(recipe: Recipe, images: Tensor, labels: Tensor) -> DigitsNet:
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


def save_classifier(network: DigitsNet, path: Path, recipe: Recipe, held_out: float) -> None:
    """Write the weights; the metadata names the program, what it was told, and the accuracy on the images held out."""
    metadata = {"format": "pt", "program": PROGRAM, "recipe": json.dumps(asdict(recipe)), "torch": torch.__version__}
    with replacing_file(path) as aside:
        save_file(network.state_dict(), aside, {**metadata, "held_out_accuracy": f"{held_out:.4f}"})
        aside.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Train the classifier of digits.")
    parser.add_argument("--output", type=Path, required=True, help=f"folder for {FILE}")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number rounds differently")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
    images, labels = load_images(presets_root() / "digits" / "images.safetensors")
    training, held_out = split(len(images))
    network = train(recipe, images[training], labels[training])
    share = accuracy(network, images[held_out], labels[held_out])
    save_classifier(network, arguments.output / FILE, recipe, share)
    print(f"{share:.4f} of {len(held_out)} images held out are classified right", file=sys.stderr)


if __name__ == "__main__":
    main()
