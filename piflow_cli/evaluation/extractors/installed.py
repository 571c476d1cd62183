"""Packages of the extras: those that stand on torchvision, and the weights that some of them bring."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from ...errors import RunError, first_line
from ...system.files import files_digest


def module_beside_torchvision(name: str, package: str) -> ModuleType:
    """The module ``name`` of ``package``, which imports torchvision.

    Raises RunError where torchvision does not fit the torch beside it, ModuleNotFoundError where one is not installed.
    """
    try:
        return import_module(name)
    except RuntimeError as error:
        # A torchvision built for another torch fails when it registers its operators.
        raise RunError(
            f"{package} does not import: {first_line(error)}",
            "install a pair that fits: pip install torch torchvision",
        ) from error


def check_weights(path: Path, digest: str, release: str) -> Path:
    """``path``, a file of weights that the package of ``release`` (as in "name==1.0") brings, with that SHA-256.

    Raises RunError where it is missing or another file: weights of another release would give other numbers.
    """
    if not path.is_file() or files_digest([path]) != digest:
        raise RunError(
            f"{path} is missing, or is not the file that came with {release}",
            f"install it again: pip install --force-reinstall --no-deps {release}",
        )
    return path
