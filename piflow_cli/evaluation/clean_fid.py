"""The parts of clean-fid (Parmar et al., arXiv 2104.11222) that evaluation stands on, and its statistics by name.

Its own Frechet distance is not used: it calls a form of SciPy's matrix root that newer SciPy has dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import RunError, UsageError
from ..files import user_cache
from .downloads import download
from .extractors.names import INCEPTION, RESIZE_CLEAN
from .features import FeatureSet
from .statistics import moments_of_arrays

if TYPE_CHECKING:
    from ..console import Console

CLEAN_FID = "clean-fid:"


def clean_fid_module(name: str) -> ModuleType:
    """A module of clean-fid; raises RunError where clean-fid is not installed, or torchvision does not fit the torch beside it."""
    try:
        return import_module(f"cleanfid.{name}")
    except RuntimeError as error:
        # A torchvision built for another torch fails when it registers its operators.
        raise RunError(
            f"clean-fid does not import: {(str(error).splitlines() or [''])[0]}", "install a pair that fits: pip install torch torchvision"
        ) from error


def clean_fid_statistics(text: str, console: Console) -> FeatureSet:
    """Inception statistics that clean-fid knows by name; downloaded once, into the user's cache.

    Args:
        text: ``clean-fid:NAME/RESOLUTION/SPLIT``, as clean-fid names its own, or ``clean-fid:NAME`` for statistics that
            its ``make_custom_stats`` wrote.

    Raises:
        UsageError: another form of name.
        RunError: they are not there and cannot be downloaded.
    """
    features = clean_fid_module("features")
    parts = text.removeprefix(CLEAN_FID).split("/")
    if len(parts) not in (1, 3) or not all(parts):
        raise UsageError(f"{text} is no name of clean-fid's", f"write {CLEAN_FID}NAME/RESOLUTION/SPLIT, as in {CLEAN_FID}cifar10/32/train")
    name, resolution, split = parts if len(parts) == 3 else (parts[0], "na", "custom")
    with _statistics_in_the_cache(features, console):
        mean, covariance = features.get_reference_statistics(name, resolution, mode="clean", split=split)
    return FeatureSet(INCEPTION, RESIZE_CLEAN, text, 0, moments_of_arrays(mean, covariance, text))


@contextmanager
def _statistics_in_the_cache(features: ModuleType, console: Console) -> Iterator[None]:
    """Let clean-fid look in its own folder, and in the user's cache before it downloads: it would write into its package."""
    original = features.check_download_url

    def look_up(local_folder: str, url: str) -> str:
        name = url.rpartition("/")[2]
        for folder in (Path(local_folder), user_cache() / "statistics"):
            if (folder / name).is_file():
                return str(folder / name)
        return str(download(url, user_cache() / "statistics" / name, console))

    features.check_download_url = look_up
    try:
        yield
    finally:
        features.check_download_url = original
