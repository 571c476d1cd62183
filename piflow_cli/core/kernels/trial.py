"""Whether Triton's kernels can be launched here, by launching one: no version or file decides that as surely.

Triton compiles the program that starts a kernel when it first starts one, with the C compiler of the machine, and the
kernel itself with an assembler that must know the GPU. Without either a rollout would fail in the middle of a run.
"""

from __future__ import annotations

from importlib.util import find_spec
from subprocess import CalledProcessError

import torch

# Those before take no tuples, which the kernels are given their strides in; torch 2.7 brings this one.
OLDEST_TRITON = (3, 3)
SHOWN = 200  # characters of what a compiler or driver says


def launch_fault(device: torch.device) -> str | None:
    """Why no kernel can be launched on ``device``, in words; None where a kernel of one number has answered."""
    if find_spec("triton") is None:
        return "Triton is not installed: pip install triton"
    # Triton, its compilers and the driver raise what they like.
    try:
        import triton

        if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
            return f'Triton {triton.__version__} takes no tuples for a kernel: pip install "torch>=2.7"'
        from .triton_trial import product

        found = product(device)
    except Exception as error:
        return f"a trial launch failed: {_fault_of(error)}"
    return None if found == 6 else f"a trial launch answered {found:g} for 2 times 3"


def _fault_of(error: Exception) -> str:
    """The first line of an error; where it is known, what is to be installed instead."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:SHOWN]
    if "C compiler" in said:
        return "there is no C compiler, which Triton needs at its first launch: apt install gcc, or export CC=FILE"
    if isinstance(error, CalledProcessError):
        # What it lacks it has written to stderr itself.
        return "the C compiler fails, which Triton needs at its first launch: apt install gcc python3-dev"
    return said
