"""The parts of clean-fid (Parmar et al., arXiv 2104.11222) that evaluation stands on, and its statistics by name.

Its own Frechet distance is not used: it calls a form of SciPy's matrix root that newer SciPy has dropped.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...errors import PiflowError, RunError, UsageError
from ...system.files import user_cache
from ...weights.cache_kinds import STATISTICS
from ..reference_kinds import CLEAN_FID
from .base import INCEPTION, RESIZE_CLEAN
from .downloads import download
from .features import FeatureSet
from .installed import module_beside_torchvision
from .moments import Moments
from .npz import npz_moments

if TYPE_CHECKING:
    from ...console import Console


def clean_fid_module(name: str) -> ModuleType:
    """A module of clean-fid; raises RunError where it does not import."""
    return module_beside_torchvision(f"cleanfid.{name}", "clean-fid")


def clean_fid_statistics(text: str, console: Console, cache: Path | None = None) -> FeatureSet:
    """Inception statistics that clean-fid knows by name; downloaded once, into the user's cache.

    Args:
        text: ``clean-fid:NAME/RESOLUTION/SPLIT``, as clean-fid names its own, or ``clean-fid:NAME`` for statistics that
            its ``make_custom_stats`` wrote.
        cache: piflow's folder in place of the one in the user's cache.

    Raises:
        UsageError: another form of name.
        RunError: they are not there and cannot be downloaded, or are no statistics.
    """
    features = clean_fid_module("features")
    parts = text.removeprefix(CLEAN_FID).split("/")
    if len(parts) not in (1, 3) or not all(parts):
        raise UsageError(
            f"{text} is no name of clean-fid's",
            f"write {CLEAN_FID}NAME/RESOLUTION/SPLIT, as in {CLEAN_FID}cifar10/32/train",
        )
    name, resolution, split = parts if len(parts) == 3 else (parts[0], "na", "custom")
    look_up = _LookUp(user_cache(cache) / STATISTICS, console)
    with _in_place(features, look_up):
        features.get_reference_statistics(name, resolution, mode="clean", split=split)
    assert look_up.moments is not None, "clean-fid reads statistics without asking for their file"
    return FeatureSet(INCEPTION, RESIZE_CLEAN, text, 0, look_up.moments)


@dataclass
class _LookUp:
    """Finds a file of statistics as clean-fid asks for it, and reads it.

    It searches clean-fid's own folder, and ``folder``, to which it downloads: clean-fid would write into its package.
    """

    folder: Path
    console: Console
    moments: Moments | None = None

    def __call__(self, local_folder: str, url: str) -> str:
        # Part of a file's name is the user's text.
        name = url.rpartition("/")[2]
        theirs, ours = Path(local_folder) / name, self.folder / name
        if theirs.is_file():
            path, self.moments = theirs, npz_moments(theirs, str(theirs))
        else:
            path, self.moments = ours, self._kept(ours)
            if self.moments is None:
                self.moments = npz_moments(self._fetched(url, ours), str(ours))
        return str(path)

    def _fetched(self, url: str, path: Path) -> Path:
        try:
            return download(url, path, self.console)
        except RunError as error:
            raise RunError(
                error.message,
                f"check the name and the network, or put it at {path}; offline: --reference DIR, a folder of pictures",
            ) from error

    def _kept(self, path: Path) -> Moments | None:
        if not path.is_file():
            return None
        try:
            return npz_moments(path, str(path))
        except PiflowError as error:
            self.console.warn(f"{error.message}; it is downloaded again")
            return None


@contextmanager
def _in_place(features: Any, look_up: _LookUp) -> Generator[None]:
    """Let clean-fid look for statistics by ``look_up``."""
    original = features.check_download_url
    features.check_download_url = look_up
    try:
        yield
    finally:
        features.check_download_url = original
