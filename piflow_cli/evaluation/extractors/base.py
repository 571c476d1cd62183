"""The interface of extractors, and opening one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ...errors import UsageError
from ...packages import object_at
from ..extractor_kinds import extractor_kind

if TYPE_CHECKING:
    from ...console import Console

INCEPTION = "inception-2015-12-05"
INCEPTION_FEATURES = 2048
RESIZE_CLEAN = "clean, 299 (bicubic, antialiased, float)"
RESIZE_TENSORFLOW = "tensorflow, 299 (bilinear, inside the network)"
PATCH = 299


class Extractor(Protocol):
    """An extractor of features of pictures.

    ``name`` and ``resize`` go into every report and every file of statistics: only features that share both can be
    compared. ``identity`` tells its weights from other weights of the same name, for caches.
    """

    @property
    def name(self) -> str: ...

    @property
    def resize(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D), float32 on the CPU, of pictures (B, 1 or 3, H, W) around [-1, 1], on any device."""

    def logits(self, features: Tensor) -> Tensor | None:
        """Logits (B, classes) of the extractor's own classifier for features; None where it has none."""


@dataclass(frozen=True)
class Opening:
    """What an extractor is opened with; the arguments of :func:`open_extractor`."""

    name: str
    device: torch.device
    weights: Path | None = None
    console: Console | None = None
    trust: bool = False
    cache: Path | None = None


def open_extractor(
    name: str,
    device: torch.device,
    weights: Path | None = None,
    console: Console | None = None,
    *,
    trust: bool = False,
    cache: Path | None = None,
) -> Extractor:
    """The extractor ``name``, of the rows of :mod:`piflow_cli.evaluation.extractor_kinds`.

    Args:
        name: ``inception`` resizes as clean-fid does, ``inception-tf`` inside the network, as the evaluators of ADM do.
        device: where its network runs.
        weights: of Inception, where they are not in one of the usual caches.
        console: told what is downloaded.
        trust: run ``weights`` even where they are not the published file.
        cache: piflow's folder in place of the one in the user's cache.

    Raises:
        UsageError: no such extractor, ``weights`` for one that takes none, or others than the published ones.
        RunError: weights that are not there and cannot be downloaded, or a package that is not installed.
    """
    kind = extractor_kind(name)
    if weights is not None and not kind.takes_weights:
        raise UsageError(
            f"the extractor {name} takes no Inception weights",
            "leave --inception-weights out, or: --extractor inception",
        )
    # A module an extractor, imported when it is asked for: clean-fid and transformers take seconds.
    return object_at(kind.opens)(Opening(name, device, weights, console, trust, cache))


@dataclass(frozen=True)
class CentrePatches:
    """The extractor ``inner`` on the middle of every picture at its full resolution (patch FID)."""

    inner: Extractor

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def resize(self) -> str:
        return f"none, centre patch of {PATCH} x {PATCH}"

    @property
    def identity(self) -> str:
        return self.inner.identity

    def features(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < PATCH:
            raise UsageError(
                f"patch FID takes the middle {PATCH} x {PATCH} pixels, and a picture has {width} x {height}",
                "leave patch-fid out of --metrics",
            )
        top, left = (height - PATCH) // 2, (width - PATCH) // 2
        return self.inner.features(images[..., top : top + PATCH, left : left + PATCH])

    def logits(self, features: Tensor) -> Tensor | None:
        return self.inner.logits(features)


def centre_patches(inner: Extractor) -> Extractor:
    """The extractor of patch FID: the centre crop of 299 x 299 pixels, not resized (Lin et al., arXiv 2402.13929).

    It tells of detail that resizing to Inception's input hides. Pictures smaller than the patch are refused.
    """
    return CentrePatches(inner)


def in_batches(images: Tensor, size: int, network: Callable[[Tensor], Tensor]) -> Tensor:
    """Features (B, D), float32 on the CPU, of ``network`` on ``size`` pictures at a time; a GPU is waited for once."""
    with torch.no_grad():
        return torch.cat([network(part).float() for part in images.split(size)]).cpu()
