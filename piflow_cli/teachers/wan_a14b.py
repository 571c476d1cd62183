"""Wan 2.2 A14B: two networks of Wan, of which the second knows the noise levels below a boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..presets.families import edge_of, family_kind
from ..weights.quantisation import quantised_loading
from .base import Conditioning, Network
from .encoders import negative_of
from .loading import load_model
from .network_pair import NetworkPair
from .wan import TOKEN_TIMES, WanFamily

BOUNDARY = "boundary_ratio"  # what indices call the noise level of the boundary
# What pipelines call the networks, of noisier states first, and how the names of their layers begin in ours.
PARTS = MappingProxyType({"transformer": "high_noise.", "transformer_2": "low_noise."})


class WanA14BFamily(WanFamily):
    """Both networks are one teacher, and their adapters and heads one student.

    Its pipeline takes the first network on the boundary too, where a student's segment of the second one starts: ours
    is told a boundary just above.
    """

    name = "wan-a14b"
    pipeline_options = MappingProxyType({BOUNDARY: edge_of(name)})

    @property
    def own_parts(self) -> Mapping[str, str]:
        return PARTS

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        self._config(folder)
        return self.together([load_model(self.model_class, place, dtype) for place in _places(folder)])

    def load_quantised(self, folder: Path, precision: str, keep: Sequence[str]) -> nn.Module:
        self._config(folder)
        networks = [
            load_model(
                self.model_class,
                place,
                torch.bfloat16,
                **quantised_loading(precision, [path.removeprefix(start) for path in keep if path.startswith(start)]),
            )
            for start, place in zip(PARTS.values(), _places(folder), strict=True)
        ]
        return self.together(networks)

    def build(self, config: dict) -> nn.Module:
        return self.together([super(WanA14BFamily, self).build(config) for _ in PARTS])

    def together(self, networks: Sequence[Network]) -> Network:
        return NetworkPair(*networks, edge=self.pipeline_options[BOUNDARY]).eval()

    def _config(self, folder: Path) -> dict:
        config = super()._config(folder)
        for place in _places(folder)[1:]:
            other = self.model_class.load_config(place)
            differ = sorted(key for key in config.keys() | other.keys() if config.get(key) != other.get(key))
            if differ := [key for key in differ if not key.startswith("_")]:
                raise UsageError(
                    f"the two networks in {folder} differ in {', '.join(differ)}",
                    "choose a base whose networks are alike",
                )
        return config

    def _check_index(self, folder: Path, index: Mapping[str, Any]) -> None:
        boundary = family_kind(self.name).boundary
        if index.get(TOKEN_TIMES):
            super()._check_index(folder, {**index, "transformer_2": None})
        if index and index.get(BOUNDARY) != boundary:
            told = "says nothing of a second network" if index.get(BOUNDARY) is None else f"says {index[BOUNDARY]}"
            raise UsageError(
                f"in {folder} the second network takes over below a noise level of {boundary}, by the family"
                f" {self.name}, and its index {told}",
                "choose a base of two networks of texts alone, or the preset of this one",
            )

    def adapter_targets(self, model: Network) -> list[str]:
        return [
            start + path
            for start, network in self.networks(model).items()
            for path in super(WanA14BFamily, self).adapter_targets(network)
        ]

    def kept_whole(self, model: Network) -> set[str]:
        return {
            start + path
            for start, network in self.networks(model).items()
            for path in super(WanA14BFamily, self).kept_whole(network)
        }

    def pipeline_inputs(self, conditioning: Conditioning) -> dict[str, Any]:
        second = {"guidance_scale_2": self.guidance_2} if negative_of(conditioning) else {}
        return {**super().pipeline_inputs(conditioning), **second}


def _places(folder: Path) -> tuple[Path, ...]:
    """The folders of both networks; raises UsageError where ``folder`` is of one."""
    places = tuple(folder / name for name in PARTS)
    if missing := [place.name for place in places if not place.is_dir()]:
        raise UsageError(
            f"there is no {' and no '.join(missing)} in {folder}, and this teacher is two networks",
            "name the folder or Hub id of a whole pipeline: --base PATH",
        )
    return places
