"""Inception v3 of 2015 through clean-fid: its wrapper, its resizing, and the weights in their usual places."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.tensors import to_device
from ...errors import RunError
from .base import INCEPTION, RESIZE_CLEAN, RESIZE_TENSORFLOW, Opening
from .clean_fid import clean_fid_module
from .inception_weights import FILE, copy_weights
from .pictures import EightBitExtractor, resized_by


class Inception(EightBitExtractor):
    """2,048 features of 8-bit pictures.

    ``resize_inside`` leaves resizing to the network, as TensorFlow's evaluators do.
    """

    name = INCEPTION

    def __init__(self, network: Any, identity: str, resize_inside: bool, device: torch.device) -> None:
        self.network, self.identity, self.device = network.to(device).eval(), identity, device
        self.resize = RESIZE_TENSORFLOW if resize_inside else RESIZE_CLEAN
        self._resizer: Callable | None = None if resize_inside else clean_fid_module("resize").build_resizer("clean")

    def features_of_levels(self, levels: Tensor) -> Tensor:
        pictures = levels.float() if self._resizer is None else resized_by(self._resizer, levels)
        return self.network(to_device(pictures, self.device))

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """(B, 1008). Without the bias of the last layer, as Salimans' own score was computed."""
        weight = self.network.base.output.weight
        return (features.to(self.device) @ weight.float().T).cpu()


def open_inception(opening: Opening) -> Inception:
    """``inception`` (resized as clean-fid does) or ``inception-tf``, with weights named or in a usual cache.

    Raises:
        UsageError: the named weights are no file, or not the published one, and are not trusted.
        RunError: no weights anywhere and no way to download them; a file that is no such network; no clean-fid.
    """
    wrapper = clean_fid_module("inception_torchscript").InceptionV3W
    resize_inside = opening.name == "inception-tf"
    # The wrapper takes a folder, and the name of the file in it is not ours to choose.
    with tempfile.TemporaryDirectory() as folder:
        place, digest = copy_weights(
            Path(folder) / FILE, opening.weights, trust=opening.trust, cache=opening.cache, console=opening.console
        )
        try:
            with warnings.catch_warnings():
                # torch calls TorchScript deprecated; the weights exist in no other form, and no user can change that.
                warnings.simplefilter("ignore", FutureWarning)
                network = wrapper(folder, download=False, resize_inside=resize_inside)
        except (RuntimeError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise RunError(
                f"{place} is not the Inception network that clean-fid reads: {reason}",
                f"name the published file: --inception-weights {FILE}",
            ) from error
    return Inception(network, digest, resize_inside, opening.device)
