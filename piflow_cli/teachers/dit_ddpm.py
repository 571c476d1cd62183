"""DiT as its paper trained it (arXiv 2212.09748): a DDPM whose network predicts the noise, and a variance beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from ..weights.locate import network_folder
from .base import Conditioning, Network, matching
from .class_conditional import ClassConditionalFamily
from .dit import CONFIG_NAME, read_config
from .dit_checkpoints import converted, refuse_faults
from .loading import load_model

# The class of the released configs, before diffusers gave DiT its own.
OLDER_NAME = "Transformer2DModel"


class DDPMDiTFamily(ClassConditionalFamily):
    """Conditioning: ``class_labels`` (B,) int64. The variance that the network predicts too is left out."""

    name = "dit-ddpm"
    model_name = "DiTTransformer2DModel"
    predicts = "epsilon-linear"
    time_unit = 1.0

    def prepare(self, base: Path, config: Path | None) -> Path:
        """A folder made from a released .bin file, by the config.json in ``config``, or else by the one beside it."""
        if not base.is_file():
            return base
        return converted(base, self._fields(base.parent if config is None else config), self._checked, self.model_name)

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> Network:
        self._fields(folder)
        return load_model(_model_class(), network_folder(folder), dtype)

    def outline(self, folder: Path) -> Network:
        with torch.device("meta"):
            return self.build(self._fields(folder))

    def build(self, config: dict) -> Network:
        model: Network = _model_class().from_config(config)
        # In training mode it would drop labels by itself.
        return model.eval()

    def head_site(self, model: Network) -> HeadSite:
        return HeadSite(
            "proj_out_2",
            model.config.patch_size**2,
            channel_major=False,
            tap="transformer_blocks.0.norm1.emb",
            tap_at="output",
            unpatchify=True,
            channels=model.config.in_channels,
            gain=self.parameterisation.largest_gain,
        )

    def adapter_targets(self, model: Network) -> list[str]:
        return matching(model, r".*\.ff\.net\.(0\.proj|2)|.*\.norm1\.emb\.timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        scaled, timestep = self.told(x, sigma)
        return model(scaled, timestep, conditioning["class_labels"], return_dict=False)[0]

    def class_count(self, model: Network) -> int:
        return model.config.num_embeds_ada_norm

    def _fields(self, folder: Path) -> dict[str, Any]:
        """The fields of the config in ``folder``; errors are those of :func:`~piflow_cli.teachers.dit.read_config`."""
        return read_config(network_folder(folder) / CONFIG_NAME, _model_class(), (self.model_name, OLDER_NAME))

    def _checked(
        self, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        # Older files have the table of positions, which is computed.
        kept = {name: value.float().contiguous() for name, value in tensors.items() if name != "pos_embed.pos_embed"}
        refuse_faults(kept, lambda: self.build(dict(fields)))
        return dict(fields), kept


def _model_class() -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel
