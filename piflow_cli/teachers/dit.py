"""DiT and SiT: class-conditional teachers, the embedded digits teacher among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..core.heads import HeadSite
from ..errors import UsageError
from ..weights.stored import INDEX_SUFFIX
from .base import Conditioning, Network, matching
from .class_conditional import ClassConditionalFamily
from .dit_checkpoints import converted
from .dit_network import DiT
from .loading import NAMES, load_model

CONFIG_NAME = "config.json"


class DiTFamily(ClassConditionalFamily):
    """Conditioning: ``class_labels`` (B,) int64."""

    name = "dit"
    model_name = "DiT"
    trained_in_full = ("proj_out_1",)
    usual_fields = MappingProxyType({"time_scale": (1.0, 1000.0)})

    def prepare(self, base: Path, config: Path | None) -> Path:
        """A folder made from a released checkpoint, by the config.json in ``config``, or else by the one beside it.

        A folder with a config.json of its own is taken by that, and stays as it is.
        """
        base = told_elsewhere(base, config)
        if not base.is_file():
            read_config(base / CONFIG_NAME)
            return base
        beside = base.parent / CONFIG_NAME
        told = beside if config is None else config / CONFIG_NAME
        return converted(base, read_config(told) if config is not None or beside.is_file() else {})

    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> Network:
        return load_model(DiT, folder, dtype, low_cpu_mem_usage=False)

    def outline(self, folder: Path) -> Network:
        with torch.device("meta"):
            return self.build(read_config(folder / CONFIG_NAME))

    def build(self, config: dict) -> Network:
        model: Network = DiT.from_config(config)
        return model.eval()

    def head_site(self, model: Network) -> HeadSite:
        return HeadSite(
            projection="proj_out_2",
            patch=model.config.patch_size**2,
            channel_major=False,
            tap="emb",
            tap_at="output",
            unpatchify=True,
        )

    def adapter_targets(self, model: Network) -> list[str]:
        return matching(model, r".*\.ff\.net\.(0\.proj|2)|emb\.timestep_embedder\.linear_[12]")

    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        return model(x, sigma.to(x.dtype), conditioning["class_labels"])

    def class_count(self, model: Network) -> int:
        return model.config.num_classes


def told_elsewhere(base: Path, config: Path | None) -> Path:
    """The weights in the folder ``base`` where it has no config.json and ``config`` is to tell; else ``base``."""
    if config is None or (base / CONFIG_NAME).is_file():
        return base
    whole = (base / name for name in NAMES if not name.endswith(INDEX_SUFFIX))
    return next((file for file in whole if file.is_file()), base)


def read_config(path: Path, kind: Any = DiT, names: Sequence[str] = (DiT.__name__,)) -> dict[str, Any]:
    """The fields of a DiT's config.json; raises UsageError where the file is none or is of another model.

    Args:
        path: of the file.
        kind: the class of the model.
        names: what files call it. Under several, which newer files left, fields that it does not know are left out.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        named = config.get("_class_name", names[0])
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"there is no config of a model at {path}", "name a folder or a checkpoint: --base PATH"
        ) from error
    fields = {name: value for name, value in config.items() if not name.startswith("_")}
    known = signature(kind.__init__).parameters.keys()
    unknown = sorted(fields.keys() - known) if len(names) == 1 else []
    if named not in names or unknown:
        what = f"a {named}" if named not in names else f"a {names[0]} with {unknown[0]}"
        raise UsageError(f"{path} describes {what}, and the preset wants a {names[0]}", "name another: --base PATH")
    return {name: value for name, value in fields.items() if name in known}
