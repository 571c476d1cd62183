"""Arrays of numbers in a pickle, read without running anything: neither what it names, nor numpy's own loading."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import RunError, first_line


class _Array:
    """Stands in for numpy's array, and for what makes one: keeps what the pickle says of it."""

    said: tuple = ()

    def __init__(self, *ignored: object) -> None:
        pass

    def __setstate__(self, said: tuple) -> None:
        self.said = said

    def tensor(self) -> Tensor:
        """A copy of its numbers; raises ValueError unless they are float32 in the order of rows."""
        _, shape, dtype, by_columns, numbers = self.said
        if not isinstance(dtype, _Dtype) or (dtype.code, dtype.order) != ("f4", "<") or by_columns:
            raise ValueError("an array is not of float32")
        if not isinstance(numbers, bytes) or len(numbers) != 4 * math.prod(shape):
            raise ValueError("an array is not as large as it says")
        return torch.from_numpy(np.frombuffer(numbers, "<f4").astype(np.float32).reshape(shape))


class _Dtype:
    """Stands in for numpy's dtype."""

    code: object = None
    order: object = None

    def __init__(self, code: object, *ignored: object) -> None:
        self.code = code

    def __setstate__(self, said: tuple) -> None:
        self.order = said[1]


# Nothing else that a pickle names is there; numpy 2 has renamed a module.
STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}
# All that a pickle of protocol 3 says of texts, bytes and numbers in dicts, lists and tuples, and the words by which
# an array is made. None of them takes more memory than the pickle has bytes.
VALUES = ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINUNICODE", "BINBYTES", "SHORT_BINBYTES")
GROUPS = ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "MARK")
FILLING = ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET")
WORDS = frozenset({"PROTO", "STOP", "GLOBAL", "REDUCE", "BUILD", *VALUES, *GROUPS, *FILLING})


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array of numbers")
        return STAND_INS[module, name]


def read_arrays(content: bytes) -> dict[str, list[Tensor]]:
    """The lists of float32 arrays by name that a pickle of protocol 3 holds, as tensors on the CPU.

    Raises RunError where it is damaged or holds anything else; nothing of it is run.
    """
    try:
        _check_words(content)
        found = _Unpickler(io.BytesIO(content)).load()
        if not isinstance(found, Mapping):
            raise ValueError("it holds no arrays by name")
        return {str(name): [array.tensor() for array in arrays] for name, arrays in found.items()}
    except Exception as error:
        # pickle raises whatever a damaged file leads to.
        raise RunError(f"a pickle of arrays cannot be read: {first_line(error)}", "download it again") from error


def _check_words(content: bytes) -> None:
    """Raise ValueError for a word that such pickles do not have, or a number of a place that would fill the memory."""
    for word, argument, _ in pickletools.genops(content):
        if word.name not in WORDS or (word.name == "LONG_BINPUT" and int(argument or 0) > len(content)):
            raise ValueError(f"it says {word.name}, which arrays do not need")
