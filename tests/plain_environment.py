"""A virtual environment with everything that is installed here but piflow, and without a download."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

# An exported student needs diffusers alone: none of what diffusers recommends besides.
LEFT_OUT = ("piflow", "_editable_impl_piflow", "__editable__", "peft", "accelerate")


def plain_environment(folder: Path) -> Path:
    """Make the environment in ``folder``; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for place in sys.path:
        if Path(place).name in ("site-packages", "dist-packages"):
            for entry in Path(place).iterdir():
                target = packages / entry.name
                if not entry.name.startswith(LEFT_OUT) and entry.suffix != ".pth" and not target.exists():
                    target.symlink_to(entry)
    return folder / "bin" / "python"


def run_plain(python: Path, script: Path, *arguments: Path, cache: Path) -> str:
    """What ``script`` prints, run from its own folder with no trace of this environment; a failed one is an error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    told = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-W", "ignore", script, *arguments],
        env=clean | told,
        cwd=cache,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
