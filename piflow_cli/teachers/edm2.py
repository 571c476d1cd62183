"""EDM2: class-conditional U-Nets of pixels that predict the residual of EDM, read from released state dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from ..errors import UsageError
from ..weights.stored import opened_tensors
from .base import Conditioning, Network
from .class_conditional import ClassConditionalFamily
from .dit import CONFIG_NAME, read_config, told_elsewhere
from .dit_checkpoints import converted, refuse_others
from .edm2_network import EPS, EDM2UNet
from .loading import NAMES, load_model

SUFFIX = ".safetensors"
INSIDE = "unet."  # of the released object, which has a preconditioning around the network
UNUSED = "logvar_"  # layers beside the network, of training alone
OUT_GAIN, OUT = "out_gain", "out_conv.weight"
GAIN, GAINED = ".emb_gain", ".emb_linear.weight"
BRING = "the released files are programs, which piflow never runs"
SAVE = "name its tensors, saved as the page ImageNet of the documentation shows: --base FILE"


class EDM2Family(ClassConditionalFamily):
    """Conditioning: ``class_labels`` (B,) int64. No class is what the released network makes of none: zeros."""

    name = "edm2"
    model_name = "EDM2UNet"
    predicts = "edm"
    fine_steps = 64
    beside_steps = 64

    def prepare(self, base: Path, config: Path | None) -> Path:
        """A folder made from a released state dict, by the config.json in ``config``, or else by the one beside it.

        ``base``: a .safetensors file, or a folder of one. A config.json of the folder's own counts before ``config``.
        """
        base = told_elsewhere(base, config)
        if base.suffix == ".pkl":
            raise UsageError(f"{base}: {BRING}", SAVE)
        if base.is_dir():
            fields = _fields(base)
            file = next((base / name for name in NAMES if (base / name).is_file()), None)
            if file is None or file.suffix != SUFFIX or not _is_released(file):
                return base
            return converted(file, fields, folded, self.model_name)
        if base.suffix != SUFFIX:
            raise UsageError(f"{base} is no {SUFFIX} file, and no folder of one", SAVE)
        return converted(base, _fields(base.parent if config is None else config), folded, self.model_name)

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> Network:
        _fields(folder)
        if not any((folder / name).is_file() for name in NAMES):
            raise UsageError(f"there are no weights in {folder}: {BRING}", SAVE)
        return load_model(EDM2UNet, folder, dtype)

    def outline(self, folder: Path) -> Network:
        with torch.device("meta"):
            return self.build(_fields(folder))

    def build(self, config: dict) -> Network:
        model: Network = EDM2UNet.from_config(config)
        return model.eval()

    def head_site(self, model: Network) -> HeadSite:
        gain = self.parameterisation.largest_gain
        return HeadSite("out_conv", 1, channel_major=True, tap="emb", tap_at="output", gain=gain)

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        scaled, timestep = self.told(x, sigma)
        return model(scaled, timestep / self.time_unit, conditioning["class_labels"])

    def embedding_dim(self, model: Network) -> int:
        return model.emb_noise.out_features

    def class_count(self, model: Network) -> int:
        return model.config.num_classes


def folded(tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and float32 tensors of the :class:`EDM2UNet` that computes what the released network does.

    Its weights are w / |w| per row, times a gain (arXiv 2312.02696, equations 47 and 66), |w| plus EPS there.

    Raises:
        UsageError: tensors are missing, unknown or of other shapes.
        RunError: they are not finite.
    """
    found = {name.removeprefix(INSIDE): value for name, value in tensors.items()}
    found = {name: value for name, value in found.items() if not name.startswith(UNUSED)}
    with torch.device("meta"):
        own = EDM2UNet(**fields).state_dict()
    gains = {name.removesuffix(GAINED) + GAIN: torch.Size() for name in own if name.endswith(GAINED)}
    expected = {name: value.shape for name, value in own.items()}
    refuse_others(found, {**expected, **gains, OUT_GAIN: torch.Size()}, "EDM2 U-Net")
    result = {}
    for name in own:
        value = found[name].double()
        if name.endswith(".weight"):
            gain = found[OUT_GAIN if name == OUT else name.removesuffix(GAINED) + GAIN] if _gained(name) else None
            value = _directions(value) if gain is None else gain.double() * _directions(value)
        result[name] = value.float().contiguous()
    return dict(fields), result


def _gained(name: str) -> bool:
    return name == OUT or name.endswith(GAINED)


def _directions(weight: Tensor) -> Tensor:
    """Rows of a weight at unit length, nearly: EPS is added to their root mean square."""
    rows = weight.flatten(1)
    inputs = rows.shape[1]
    size = rows.norm(dim=1) / math.sqrt(inputs) + EPS
    return (rows / (size[:, None] * math.sqrt(inputs))).reshape(weight.shape)


def _fields(folder: Path) -> dict[str, Any]:
    """The fields of the config in ``folder``; errors are those of :func:`~piflow_cli.teachers.dit.read_config`."""
    return read_config(folder / CONFIG_NAME, EDM2UNet, (EDM2UNet.__name__,))


def _is_released(file: Path) -> bool:
    """Whether its gains are apart from its weights still."""
    with opened_tensors(file) as tensors:
        return any(name.removeprefix(INSIDE) == OUT_GAIN for name in tensors.keys())
