"""What Triton's compiler leaves out of its work on the kernels of GM rollouts."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

try:
    from triton._C.libtriton import passes

    _PASSES: Any = passes.ttgpuir
except (ImportError, AttributeError):
    _PASSES = None
_NAME = "add_coalesce"
_COALESCE = getattr(_PASSES, _NAME, None)


def without_coalescing() -> AbstractContextManager:
    """Launches in this context compile what is not compiled yet without Triton's search for wider accesses of memory.

    For each access that search walks through everything its address and its value are connected with. These kernels
    make one access for every mean of a position (:mod:`.triton_lanes`), and all that they do is connected: it took nine
    tenths of 20 seconds for FLUX.1. It finds nothing there, since no thread may read what another one owns; the machine
    code is the same without it, bit for bit. Of a Triton that has no such pass, nothing is left out.
    """
    return nullcontext() if _COALESCE is None else _Without()


class _Without:
    """Two threads may be in it: each puts back what was there before both."""

    def __enter__(self) -> None:
        setattr(_PASSES, _NAME, _no_pass)

    def __exit__(self, *_: object) -> None:
        setattr(_PASSES, _NAME, _COALESCE)


def _no_pass(manager: object) -> None:
    return None
