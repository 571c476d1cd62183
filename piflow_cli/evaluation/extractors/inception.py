"""Inception v3 of 2015 through clean-fid: its wrapper of the network, its resizing, and the weights where they usually are."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import RunError, UsageError
from ...files import user_cache
from ..clean_fid import clean_fid_module
from ..downloads import download
from .base import identity_of, in_batches
from .names import INCEPTION, RESIZE_CLEAN, RESIZE_TENSORFLOW
from .pictures import quantised, resized_by

if TYPE_CHECKING:
    from ...console import Console

FILE = "inception-2015-12-05.pt"
BATCH = 32


class Inception:
    """2,048 features of 8-bit pictures; ``resize_inside`` leaves resizing to the network, as TensorFlow's evaluators do."""

    name = INCEPTION

    def __init__(self, network: nn.Module, identity: str, resize_inside: bool, device: torch.device) -> None:
        self.network, self.identity, self.device = network.to(device).eval(), identity, device
        self.resize = RESIZE_TENSORFLOW if resize_inside else RESIZE_CLEAN
        self._resizer: Callable | None = None if resize_inside else clean_fid_module("resize").build_resizer("clean")

    def features(self, images: Tensor) -> Tensor:
        return in_batches(quantised(images), BATCH, self._features)

    def _features(self, levels: Tensor) -> Tensor:
        pictures = levels.float() if self._resizer is None else resized_by(self._resizer, levels)
        return self.network(pictures.to(self.device))

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """(B, 1008). Without the bias of the last layer, as Salimans' own score was computed."""
        weight = self.network.base.output.weight
        return (features.to(self.device) @ weight.float().T).cpu()


def open_inception(name: str, device: torch.device, weights: Path | None, console: Console | None) -> Inception:
    """``inception`` (resized as clean-fid does) or ``inception-tf``, with the weights in ``weights`` or in a usual cache.

    Raises:
        UsageError: there is no file at ``weights``.
        RunError: no weights anywhere and no way to download them; a file that is no such network; no clean-fid.
    """
    wrapper = clean_fid_module("inception_torchscript").InceptionV3W
    path = find_weights(weights, console)
    resize_inside = name == "inception-tf"
    with tempfile.TemporaryDirectory() as folder:
        # The wrapper takes a folder, and the name of the file in it is not ours to choose.
        (Path(folder) / FILE).symlink_to(path.resolve())
        try:
            with warnings.catch_warnings():
                # torch calls TorchScript deprecated; the weights exist in no other form, and no user can change that.
                warnings.simplefilter("ignore", FutureWarning)
                network = wrapper(folder, download=False, resize_inside=resize_inside)
        except (RuntimeError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise RunError(f"{path} is not the Inception network that clean-fid reads: {reason}", f"remove it, or name another {FILE}") from error
    return Inception(network, identity_of([path]), resize_inside, device)


def find_weights(given: Path | None, console: Console | None) -> Path:
    """The file of weights: the one given, else one in the places of clean-fid, torch.hub and piflow, else downloaded into piflow's.

    Raises:
        UsageError: there is no file at ``given``.
        RunError: it is in none of the places and cannot be downloaded; the hint says where to put it.
    """
    if given is not None:
        if not given.is_file():
            raise UsageError(f"there are no Inception weights at {given}", f"name the file {FILE}")
        return given
    for folder in weight_folders():
        if (folder / FILE).is_file():
            return folder / FILE
    own = weight_folders()[-1] / FILE
    try:
        return download(clean_fid_module("downloads_helper").inception_url, own, console)
    except RunError as error:
        raise RunError(error.message, f"put {FILE} at {own}, or name it: --inception-weights PATH; offline: --extractor pixels") from error


def weight_folders() -> list[Path]:
    """Where weights are looked for: clean-fid's folder, torch.hub's, and last our own, where they are downloaded to."""
    return [Path(tempfile.gettempdir()), Path(torch.hub.get_dir()) / "checkpoints", user_cache() / "weights"]
