"""The sizes that a base's own files state: pixels of a latent position, tokens of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import RunError
from .loading import MEND


def vae_factor(folder: Path) -> int | None:
    """Pixels that a latent position of the base in ``folder`` spans, each way; None where it has no VAE.

    The stock pipelines of diffusers count alike: some VAEs of videos state it; an AutoencoderKL or AutoencoderDC halves
    the sides between two of its blocks, and another VAE of videos in each stage of which it says whether the time is
    halved too. That of LTX-Video cuts patches first, and says in which blocks it halves.

    Raises RunError where the config is damaged.
    """
    path = folder / "vae" / "config.json"
    config = read_object(path)
    halvings = {"block_out_channels": -1, "encoder_block_out_channels": -1, "temperal_downsample": 0}
    for key in ("scale_factor_spatial", "spatial_compression_ratio"):
        stated = config.get(key)
        if stated is None:
            continue
        if not isinstance(stated, int) or stated < 1:
            raise RunError(f"{path} is damaged: {key} is {stated!r}, and no number of pixels", MEND)
        return stated
    if "spatio_temporal_scaling" in config:
        return _cut_and_halved(path, config)
    for key, more in halvings.items():
        if key in config:
            if not isinstance(config[key], list) or not config[key]:
                raise RunError(f"{path} is damaged: {key} is {config[key]!r}, and no list of stages", MEND)
            return 2 ** (len(config[key]) + more)
    return None


def _cut_and_halved(path: Path, config: dict[str, Any]) -> int:
    scaling, patch = config["spatio_temporal_scaling"], config.get("patch_size", 4)
    if not isinstance(scaling, list) or not all(isinstance(halves, bool) for halves in scaling):
        raise RunError(f"{path} is damaged: spatio_temporal_scaling is {scaling!r}, and no list of blocks", MEND)
    if not isinstance(patch, int) or patch < 1:
        raise RunError(f"{path} is damaged: patch_size is {patch!r}, and no number of pixels", MEND)
    return patch * 2 ** sum(scaling)


def tokens_read(folder: Path, tokenizer: str) -> int | None:
    """The most tokens that the ``tokenizer`` of the base in ``folder`` makes of a text; None where it does not say.

    Raises RunError where the config is damaged.
    """
    path = folder / tokenizer / "tokenizer_config.json"
    most = read_object(path).get("model_max_length")
    if most is None or (isinstance(most, int | float) and most >= 1):
        return None if most is None else int(most)
    raise RunError(f"{path} is damaged: model_max_length is {most!r}, and no number of tokens", MEND)


def read_object(path: Path) -> dict[str, Any]:
    """The object in the file ``path``; {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is damaged: it is no JSON object", MEND) from error
