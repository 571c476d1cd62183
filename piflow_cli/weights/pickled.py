"""Tensors of a pickled checkpoint (.pth, .pt, .ckpt, .bin), read without running anything in it."""

from __future__ import annotations

import argparse
import errno
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import RunError, UsageError

WEIGHTS_WITHIN = ("ema", "state_dict", "model")  # where training programs keep the weights, best first
# Tensors may share memory, as tied layers do; a file whose tensors would fill this many times its size is no
# checkpoint.
MOST_SHARED = 4


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU: the averaged ones where a training program saved both.

    Raises:
        RunError: it is damaged, holds more than tensors, or would unpack to more than its size.
        UsageError: it holds no tensors by name.
    """
    _refuse_bomb(path)
    try:
        # Training programs keep their arguments beside the weights; reading a Namespace runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OSError,
    ) as error:
        # torch seeks to impossible places in a file that is cut short.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise RunError(
            "it is damaged, or holds more than tensors, which piflow never runs",
            "download it again, or save its state dict as safetensors",
        ) from error
    names = [name for name in WEIGHTS_WITHIN if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)]
    tensors = content[names[0]] if names else content
    if (
        not isinstance(tensors, Mapping)
        or not tensors
        or not all(isinstance(value, Tensor) for value in tensors.values())
    ):
        raise UsageError("it holds no state dict", "name a file of weights: --base PATH")
    found = {str(name).removeprefix("module."): value for name, value in tensors.items()}
    _refuse_impossible(found, path.stat().st_size)
    return found


def _refuse_bomb(path: Path) -> None:
    """Raise RunError for a zip whose members unpack to more than its size: torch packs without compression."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        # torch says what is wrong with it.
        return
    size = path.stat().st_size
    if unpacked > size:
        what = f"it has {size:,} bytes and would unpack to {unpacked:,}, which torch never writes"
        raise RunError(what, "download it again from its maker")


def _refuse_impossible(tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise RunError for tensors that are no plain ones on the CPU, or that repeat their numbers to fill the memory."""
    total = 0
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise RunError(f"its {name} is no plain tensor", "save its state dict as safetensors")
        total += value.nbytes
        if value.nbytes > value.untyped_storage().nbytes() or total > MOST_SHARED * size:
            raise RunError(
                f"its {name} {tuple(value.shape)} is larger than what the file holds of it",
                "download it again from its maker",
            )
