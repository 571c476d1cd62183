"""A GPU that is not there: a library in which every CUDA call works and does nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nothing.c")


def library(folder: Path) -> Path:
    """The library of nothing, compiled into ``folder``; needs a C compiler, and the headers that Triton brings."""
    import triton

    include, made = Path(triton.__file__).parent / "backends/nvidia/include", folder / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-w", f"-I{include}", SOURCE, "-Wl,-soname,libcuda.so.1", "-o", made]
    subprocess.run([str(part) for part in command], check=True)
    return made


def environment(library: Path) -> dict[str, str]:
    """The variables of a process for which the library stands in the place of runtime and driver."""
    # Segments that grow ask the driver for more than this one knows.
    left = {name: value for name, value in os.environ.items() if not name.endswith("ALLOC_CONF")}
    return {**left, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
