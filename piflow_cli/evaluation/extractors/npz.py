"""Mean and covariance of Inception's features in .npz files, as the evaluators of ADM and clean-fid write them."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from ...errors import PiflowError, RunError, UsageError, first_line
from .base import INCEPTION_FEATURES
from .moments import Moments, check_shapes, moments_of_arrays

NAMES = ("mu", "sigma")


def npz_moments(path: Path, source: str) -> Moments:
    """Moments of the arrays ``mu`` (2048,) and ``sigma`` (2048, 2048) of the file at ``path``.

    ``source``: the name of the file in messages.

    Shapes are checked before anything is read into memory: a file of some kilobytes can hold, or claim, more than
    fits.

    Raises:
        UsageError: it lacks the two arrays, or they are no real mean and covariance.
        RunError: it is damaged, or holds values that are not finite or no covariance.
    """
    import numpy as np

    try:
        with ZipFile(path) as archive:
            shapes = [_shape(archive, name) for name in NAMES if f"{name}.npy" in archive.namelist()]
        if len(shapes) < len(NAMES):
            raise UsageError(
                f"{source} lacks the arrays mu and sigma", "name statistics as the evaluators of ADM write them"
            )
        check_shapes(*shapes, source)
        if shapes[0] != (INCEPTION_FEATURES,):
            found = f"{source} is of {shapes[0][0]:,} features, and Inception has {INCEPTION_FEATURES:,}"
            raise UsageError(found, "name statistics of Inception")
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (file[name] for name in NAMES)
    except PiflowError:
        raise
    except Exception as error:
        # numpy and zipfile raise whatever a damaged archive leads to.
        raise RunError(f"{source} cannot be read: {first_line(error)}", "copy or download it again") from error
    return moments_of_arrays(mean, covariance, source)


def _shape(archive: ZipFile, name: str) -> tuple[int, ...]:
    """The shape of an array of numbers, from its header; raises ValueError where it is anything else."""
    from numpy.lib import format as npy

    with archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{name} is in a version of the format that is not known")
        shape, _, dtype = read(file)
    if dtype.kind not in "fiuc" or dtype.itemsize > 16:
        raise ValueError(f"{name} is an array of {dtype}, not of numbers")
    return shape
