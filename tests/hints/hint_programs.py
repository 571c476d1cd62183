"""Programs beside piflow that hints name: each is asked whether it takes what the hint has it do, or does it.

Nothing is installed, and nobody is logged in anywhere: what such a program changes is the undoing of the fault.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import huggingface_hub
from hub_server import TOKEN
from packaging.requirements import Requirement
from project_file import PROJECT

# What a part of a hint has another program do, or has the reader do before the line is typed again.
OUTSIDE = re.compile(
    r"(?:^|[ `])(rm .+|(?:pip|apt) install [^;)]+|hf auth [a-z]+|hf download [^ ;]+|wandb login|ulimit .+|unset .+"
    r"|(?:set|export) [A-Z_]+=\S+|put \S+ at \S+|run the same command again|wait some minutes)"
)
# Named otherwise by those who publish it; and a package that is never there without the other.
PUBLISHED = {"cleanfid": "clean-fid", "pyarrow": "datasets", "triton": "torch"}


def outside(part: str) -> list[str] | None:
    """The words of what comes before the line is typed again; None where the part is about the line itself."""
    found = OUTSIDE.search(part)
    return None if found is None else shlex.split(found[1])


def do(words: Sequence[str], missing: str | None, it: Sequence[str]) -> bool:
    """Do what ``words`` say, or look that it could be done; returns whether that mends what was wrong.

    ``missing``: the package that is to be installed. ``it``: the file that "it" is, to be put in its place.
    """
    program, *given = words
    PROGRAMS[program](given, missing, it)
    return not " ".join(words).startswith(LEAVING)


def _run(words: Sequence[str]) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _pip(given: Sequence[str], missing: str | None, it: Sequence[str]) -> None:
    """Every word is an option of pip's or a requirement, and one of those brings the package that is missing."""
    options = {word for word in given if word.startswith("-")}
    assert all(re.search(rf"(?<![\w-]){option}\b", _help_of_pip()) for option in options)
    brought = {package for word in given[1:] if word not in options for package in packages_of(Requirement(word))}
    published = PUBLISHED.get(missing, missing)
    assert published is None or published in brought or brought & set(packages_distributions()[missing])


@cache
def _help_of_pip() -> str:
    return subprocess.run(
        [sys.executable, "-m", "pip", "install", "--help"], check=True, capture_output=True, text=True
    ).stdout


def packages_of(requirement: Requirement) -> set[str]:
    """What a requirement brings: of piflow the packages of the extras that it names."""
    if requirement.name != PROJECT["name"]:
        return {requirement.name}
    extras = [PROJECT["optional-dependencies"][extra] for extra in requirement.extras]
    return {requirement.name} | {Requirement(package).name for extra in extras for package in extra}


@cache
def _is_of_hf(words: str) -> bool:
    """Whether the Hub's command line has a command."""
    asked = [sys.executable, "-m", "huggingface_hub.cli.hf", *words.split(), "--help"]
    return subprocess.run(asked, capture_output=True).returncode == 0


def _hf(given: Sequence[str], missing: str | None, it: Sequence[str]) -> None:
    assert _is_of_hf(" ".join(given))
    if given[-1] == "login":
        huggingface_hub.login(TOKEN)
    elif given[0] == "download":
        # As the Hub's client leaves it.
        place = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{given[1].replace('/', '--')}"
        for name, content in {"refs/main": "0", "snapshots/0/config.json": "{}"}.items():
            (place / name).parent.mkdir(parents=True)
            (place / name).write_text(content)


def _wandb(given: Sequence[str], missing: str | None, it: Sequence[str]) -> None:
    assert given[0] in importlib.import_module("wandb.cli.cli").cli.commands


def _apt(given: Sequence[str], missing: str | None, it: Sequence[str]) -> None:
    """Through the shell, to the `apt` that a fault has put there: this machine's own is not asked."""
    assert str(shutil.which("apt")).startswith(str(Path.cwd()))
    _run(["/bin/sh", "-c", shlex.join(["apt", *given])])


def _export(name: str, value: str, it: Sequence[str]) -> None:
    os.environ[name] = {"DIR": str(Path.cwd()), "FILE": next(iter(it), "")}.get(value, value)


PROGRAMS: dict[str, Callable[[Sequence[str], str | None, Sequence[str]], None]] = {
    "rm": lambda given, missing, it: _run(["rm", *given]),
    "ulimit": lambda given, missing, it: _run(["bash", "-c", shlex.join(["ulimit", *given])]),
    "unset": lambda given, missing, it: [os.environ.pop(name) for name in given] and None,
    "set": lambda given, missing, it: os.environ.update([given[0].split("=")]),
    "export": lambda given, missing, it: _export(*given[0].split("="), it),
    "put": lambda given, missing, it: put(it[0], Path(given[-1])),
    "pip": _pip,
    "apt": _apt,
    "hf": _hf,
    "wandb": _wandb,
    # The same again, when what was in the way is gone.
    "run": lambda given, missing, it: None,
    "wait": lambda given, missing, it: None,
}


# Those that change what the reader has, and nothing of the fault.
LEAVING = ("set", "export", "put", "apt", "hf auth login", "unset CUDA_VISIBLE_DEVICES")


def put(file: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place)
