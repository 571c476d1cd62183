"""Versions for a bug report, as `piflow --version --json` prints them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from piflow_cli import __version__

PACKAGES = ("diffusers", "peft", "accelerate", "transformers", "safetensors", "numpy", "triton")


def collect() -> dict[str, str | None]:
    """Versions by name, None for what is not installed; imports torch to ask for the GPU."""
    return {
        "piflow": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **_torch(),
        **{name: _installed(name) for name in PACKAGES},
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torch() -> dict[str, str | None]:
    """torch, the CUDA it was built for and the GPUs it sees. A torch that does not load is what this report is for."""
    try:
        import torch
    except (ImportError, OSError) as exc:
        return {
            "torch": f"does not load: {exc}" if _installed("torch") is not None else None,
            "cuda": None,
            "gpu": None,
        }
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": ", ".join(names) if names else None}
