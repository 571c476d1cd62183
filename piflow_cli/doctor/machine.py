"""Python, torch, the driver and the GPUs."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec

from .findings import Finding, broken, missing, short_line, works

OLDEST_PYTHON, OLDEST_TORCH = (3, 10), (2, 6)
SECONDS = 10
CUDA_BUILD = "on Linux: pip install --force-reinstall torch; elsewhere torch's site on the web has the command"


def python() -> Finding:
    """The version, against the oldest that the package takes."""
    said, facts = f"{platform.python_version()} on {platform.platform()}", {"python": platform.python_version()}
    if sys.version_info[:2] < OLDEST_PYTHON:
        return broken(f"{said}: too old", "install Python 3.10 or later, and this package in it", facts)
    return works(said, facts)


def torch_build() -> Finding:
    """torch loads, is new enough, and what it was built for."""
    if find_spec("torch") is None:
        return broken("not installed", "pip install torch")
    try:
        import torch
    except (ImportError, OSError) as error:
        return broken(f"it does not load: {short_line(error)}", "pip install --force-reinstall torch")
    cuda, rocm = torch.version.cuda, torch.version.hip
    built = f"CUDA {cuda}" if cuda is not None else f"ROCm {rocm}" if rocm is not None else "the CPU alone"
    facts = {"torch": torch.__version__, "cuda": cuda, "rocm": rocm}
    said = f"{torch.__version__}, built for {built}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        return broken(f"{said}: too old", 'pip install "torch>=2.6"', facts)
    return works(said, facts)


def seen_by_the_driver() -> list[list[str]]:
    """Driver, name and memory of each GPU, as nvidia-smi says them; none where it is not there or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[part.strip() for part in line.split(",")] for line in lines if line.count(",") == 2]


def driver() -> Finding:
    """The driver answers, and torch's CUDA starts on it."""
    import torch

    seen = seen_by_the_driver()
    facts = {"driver": seen[0][0] if seen else None}
    if torch.cuda.is_available():
        return works(f"{seen[0][0]}" if seen else "there, though nvidia-smi does not say which", facts)
    if not seen:
        return missing("none of NVIDIA answers", None, facts)
    said = f"{seen[0][0]} has {seen[0][1]}, and torch does not use it: "
    if torch.version.cuda is None:
        return broken(f"{said}this build has no CUDA", CUDA_BUILD, facts)
    try:
        torch.cuda.init()
    except Exception as error:
        return broken(
            f"{said}{short_line(error)}",
            "update the driver, or install a torch that was built for an older CUDA",
            facts,
        )
    return broken(f"{said}CUDA_VISIBLE_DEVICES may hide it", "unset CUDA_VISIBLE_DEVICES", facts)


def gpus() -> Finding:
    """Every GPU with its memory and capability."""
    import torch

    rows = [_gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if not rows:
        return missing("torch sees none", None, {"gpus": []})
    said = [
        "{name}, {free:.1f} of {total:.1f} GB free, capability {capability}".format(
            **row | {"free": row["free_bytes"] / 1e9, "total": row["total_bytes"] / 1e9}
        )
        for row in rows
    ]
    return works("; ".join(said), {"gpus": rows})


def _gpu(index: int) -> dict:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    name = torch.cuda.get_device_name(index)
    return {"name": name, "free_bytes": free, "total_bytes": total, "capability": f"{major}.{minor}"}
