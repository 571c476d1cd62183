"""Plain pictures: those of class c have the level (c + 1) / classes at every position.

All data of a class lie in one point m, where the velocity is known in closed form: x = (1 - sigma) m + sigma eps, and
so eps - m = (x - m) / sigma.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from piflow_cli.core.heads import HeadSite
from piflow_cli.teachers.base import Conditioning
from piflow_cli.teachers.class_conditional import ClassConditionalFamily

WIDTH = 4


class Plain(ModelMixin, ConfigMixin):
    """The velocity (B, 1, side, side) of plain pictures; the last of ``classes`` + 1 labels is none."""

    @register_to_config
    def __init__(self, side: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.out_channels = 1
        self.levels = nn.Embedding(classes + 1, 1)
        self.time = nn.Linear(1, WIDTH)
        self.out = nn.Linear(1 + WIDTH, 1)
        with torch.no_grad():
            self.levels.weight.copy_(torch.arange(1, classes + 2).reshape(-1, 1) / classes)
            for parameter in (self.time.weight, self.time.bias, self.out.weight, self.out.bias):
                parameter.zero_()
            self.out.weight[:, 0] = 1

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        time = self.time(sigma[:, None])
        tokens = (x.flatten(2).transpose(1, 2) - self.levels(labels)[:, None]) / sigma[:, None, None]
        tokens = self.out(torch.cat([tokens, time[:, None].expand(-1, tokens.shape[1], -1)], dim=2))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class PlainFamily(ClassConditionalFamily):
    name = "plain"
    model_name = "Plain"
    fine_steps = 8

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> Plain:
        model = self.build(json.loads((folder / "config.json").read_text()))
        # That of diffusers warns of the layers that a class keeps in float32, where it keeps none too.
        return nn.Module.to(model, dtype)

    def outline(self, folder: Path) -> Plain:
        with torch.device("meta"):
            return self.load(folder)

    def build(self, config: dict) -> Plain:
        return Plain.from_config(config).eval()

    def head_site(self, model: nn.Module) -> HeadSite:
        return HeadSite("out", patch=1, channel_major=False, tap="time", tap_at="output")

    def call(self, model: nn.Module, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        return model(x, sigma.to(x.dtype), conditioning["class_labels"])

    def embedding_dim(self, model: nn.Module) -> int:
        return WIDTH

    def class_count(self, model: nn.Module) -> int:
        return model.config.classes

    def sample_shape(self, model: nn.Module) -> tuple[int, ...]:
        return 1, model.config.side, model.config.side
