"""README's two commands where nothing but piflow and what it declares is installed.

    python tests/empty_environment.py [--download]

A new virtual environment gets pip and links to what the runtime dependencies of pyproject.toml need of this
environment: no extra, no tool of the tests. The commands then run as README writes them, `pip install .` in the
repository, the others in an empty folder with an empty home. With ``--download`` nothing is linked, and pip fetches all
of it. Takes a minute and a half on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from doc_blocks import ROOT, blocks
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project_file import PROJECT

PICTURES = 64


def commands() -> list[list[str]]:
    """What README's section Start says to type."""
    [start] = [block for block in blocks() if block.page == "README.md" and "--seeds 0-63" in block.text]
    return start.commands


def declared() -> dict[str, Distribution]:
    """The distributions that the runtime dependencies of pyproject.toml need here, those of their dependencies too."""
    waiting = [(Requirement(line), "") for line in PROJECT["dependencies"]]
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        for one in {"", *wanted.extras}:
            if (name, one) not in seen:
                seen.add((name, one))
                found[name] = distribution(name)
                waiting += [(Requirement(line), one) for line in found[name].requires or []]
    return found


def link(packages: Path) -> None:
    """Put links to the declared distributions into the folder ``packages``."""
    for one in declared().values():
        # Programs of a distribution lie above the packages: "../../../bin/name".
        for top in {path.parts[0] for path in one.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(one.locate_file(top))).resolve())


def installed(python: Path) -> set[str]:
    """Names that pip lists."""
    told = subprocess.run([python, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True).stdout
    return {canonicalize_name(line.partition("=")[0].partition(" @")[0]) for line in told.splitlines()}


def run(words: list[str], folder: Path, environment: Path, home: Path) -> None:
    """One command, with no trace of this environment; one that fails is an error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIFLOW", "HF_"))}
    told = {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "PIP_QUIET": "1"}
    # The cache of pip is in the home, and holds what it need not download again.
    own = {} if words[0] == "pip" else {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    print("$", *words, flush=True)
    subprocess.run(words, cwd=folder, env=kept | told | own, check=True)


def check(folder: Path) -> None:
    """The commands left a student and its pictures."""
    assert (folder / "runs" / "digits" / "adapter" / "diffusion_pytorch_model.safetensors").is_file(), "no student"
    pictures = [path for path in folder.glob("samples/digits/*.png") if path.stem.isdigit()]
    assert len(pictures) == PICTURES, f"{len(pictures)} pictures"
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--download", action="store_true", help="let pip fetch everything, and link nothing")
    download = parser.parse_args().download
    with tempfile.TemporaryDirectory() as temporary:
        environment, folder, home = (Path(temporary, name) for name in ("environment", "empty", "home"))
        venv.create(environment, with_pip=True, symlinks=True)
        folder.mkdir()
        home.mkdir()
        python = environment / "bin" / "python"
        if not download:
            link(next(environment.glob("lib/python*/site-packages")))
        before = installed(python)
        for words in commands():
            run(words, ROOT if words[0] == "pip" else folder, environment, home)
        added = installed(python) - before
        # pip checks that what is declared is there, and that nothing was missing of what was linked.
        run(["pip", "check"], folder, environment, home)
        assert download or added == {"piflow"}, f"pip had to add {sorted(added)}"
        check(folder)
    print("README's commands run with what is declared alone.")


if __name__ == "__main__":
    main()
