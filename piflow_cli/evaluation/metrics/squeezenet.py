"""The distance of pictures by the layers of SqueezeNet, as LPIPS without its learned weights.

It is the off-the-shelf distance of Zhang et al. (arXiv 1801.03924, equation 1 with w = 1), on weights that come in a
package. The learned weights of LPIPS do not belong here: they were fitted to the channels of torchvision's SqueezeNet,
which is another training (pytorch/vision, pull request 49) than these weights of Caffe's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import UsageError
from ..extractors.installed import module_beside_torchvision
from ..frames import by_frame
from ..rows import Row
from .perceptual import distances_by, layers_of
from .squeezenet_weights import squeezenet_pickle, squeezenet_weights

if TYPE_CHECKING:
    from ..compared import Compared
    from ..measuring import Measuring

PACKAGES = ("ndf", "lpips", "torchvision")


def refuse(compared: Compared) -> None:
    """Raise UsageError where a package is not installed, RunError where it holds other weights."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UsageError(
                f"--metrics squeezenet: the package {package} is not installed", 'pip install "piflow[features]"'
            )
    squeezenet_pickle()


def squeezenet_distances(measuring: Measuring) -> Iterator[Row]:
    opened = measuring.compared.opened
    distances = open_squeezenet(opened.device, measuring.request.cache)
    for candidate in measuring.candidates:
        total, count = 0.0, 0
        for pair in measuring.pairs(candidate):
            ours, fine = (opened.decode(states).float().clamp(-1, 1) for states in pair)
            total, count = total + by_frame(distances, ours, fine).double().sum().item(), count + len(ours)
        yield measuring.row(candidate, "squeezenet", total / count, count, reference=measuring.fine_name)


def open_squeezenet(device: torch.device, cache: Path | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """A function to distances (B,), float32 on the CPU, of two batches of pictures (B, 1 or 3, H, W) in [-1, 1].

    The seven layers count alike, and so do the channels of each. Pictures with a side below 64 are enlarged to it,
    bilinearly. ``cache``: piflow's folder in place of the one in the user's cache.

    Raises RunError where a package holds other weights, ModuleNotFoundError where one is not installed.
    """
    package = module_beside_torchvision("lpips", "lpips")
    with warnings.catch_warnings():
        # The package calls torchvision by arguments that are deprecated.
        warnings.simplefilter("ignore", UserWarning)
        network = package.LPIPS(net="squeeze", lpips=False, pnet_rand=True, verbose=False)
    network.net.load_state_dict(layers_of(squeezenet_weights(cache), network))
    return distances_by(network, device)
