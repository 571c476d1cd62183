"""Tensors in a safetensors file with a digest of itself, so that damage is noticed in reading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..errors import RunError
from ..system.files import replacing_file
from .digests import tensors_digest
from .stored import read_safetensors

SEAL = "sha256"


def save_sealed(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata aside, with their digest, then rename the file into place."""
    plain = {name: value.to("cpu").contiguous() for name, value in tensors.items()}
    with replacing_file(path) as aside:
        save_file(plain, aside, {**metadata, SEAL: tensors_digest(metadata, plain, plain.__getitem__)})


def read_sealed(path: Path) -> tuple[dict[str, str], dict[str, Tensor], bool]:
    """Metadata and tensors, and whether the file carries a digest; a digest must match.

    Raises RunError where the file is corrupt, cut short or changed.
    """
    metadata, tensors = read_safetensors(path)
    seal = metadata.pop(SEAL, None)
    if seal is not None and seal != tensors_digest(metadata, tensors, tensors.__getitem__):
        raise RunError(f"{path} is damaged: it is not what was written", "make it again, or copy it again")
    return metadata, tensors, seal is not None


def is_whole_sealed(path: Path) -> bool:
    """Whether a file has a digest, and is what was written."""
    try:
        return read_sealed(path)[2]
    except RunError:
        return False
