"""The shipped completion scripts: as Typer writes them today, and offering the commands in the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.completion import get_completion_script

import piflow_cli

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "completions"
SHELLS = ["bash", "zsh", "fish"]
PATIENCE = 60.0


@pytest.mark.parametrize("shell", SHELLS)
def test_shipped_script_is_the_generated_one(shell):
    expected = get_completion_script(prog_name="piflow", complete_var="_PIFLOW_COMPLETE", shell=shell)
    assert (SCRIPTS / f"piflow.{shell}").read_text() == expected + "\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own and a `piflow` on PATH that runs this package with this Python."""
    shim = tmp_path / "bin" / "piflow"
    shim.parent.mkdir()
    package = Path(piflow_cli.__file__).parent.parent
    shim.write_text(f'#!/bin/sh\nPYTHONPATH="{package}" exec "{sys.executable}" -m piflow_cli "$@"\n')
    shim.chmod(0o755)
    path = os.pathsep.join([str(shim.parent), os.environ["PATH"]])
    return {"HOME": str(tmp_path), "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8", "PS1": "> "}


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


def run(command: list[str], environment: dict[str, str], folder: Path) -> list[str]:
    """The lines a shell prints; an error in the script is an error here."""
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@needs("bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["dis"], ["distill"]),
        (["distill", "--teacher", "digi"], ["digits"]),
        (["nonsense"], []),
        (["e"], ["eval", "export"]),
        (["do"], ["doctor"]),
        (["ins"], ["inspect-policy"]),
    ],
)
def test_bash_completes(words, offered, environment, tmp_path):
    typed = " ".join(f'"{word}"' for word in ["piflow", *words])
    program = (
        f'source "{SCRIPTS / "piflow.bash"}"\n'
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}\n"
        "complete -p piflow | grep -q _piflow_completion || exit 3\n"
        '_piflow_completion piflow\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    lines = run(["bash", "--norc", "--noprofile", "-c", program], environment, tmp_path)
    assert [line for line in lines if line] == offered


@needs("fish")
@pytest.mark.parametrize(("line", "offered"), [("piflow dis", "distill"), ("piflow distill --teacher digi", "digits")])
def test_fish_completes(line, offered, environment, tmp_path):
    program = f'source "{SCRIPTS / "piflow.fish"}"; complete -C "{line}"'
    lines = run(["fish", "--no-config", "-c", program], environment, tmp_path)
    assert [line.split("\t")[0] for line in lines] == [offered]


@needs("zsh")
@pytest.mark.parametrize(
    ("line", "completed"),
    [("piflow dis", "piflow distill "), ("piflow distill --teacher digi", "piflow distill --teacher digits ")],
)
def test_zsh_completes(line, completed, environment, tmp_path):
    shell = Terminal(["zsh", "-f", "-i"], environment, tmp_path)
    try:
        # Tab completes and then writes the line to a file, so that no redrawing has to be understood.
        shell.send(
            f'autoload -Uz compinit; compinit -u; source "{SCRIPTS / "piflow.zsh"}"; '
            'show() { zle complete-word; print -r -- "$BUFFER|" >$HOME/line }; zle -N show; '
            'bindkey "^I" show; print ready-$((1+1))\n'
        )
        shell.wait(lambda: "ready-2" in shell.seen)
        shell.send(f"{line}\t")
        written = tmp_path / "line"
        shell.wait(lambda: written.exists() and written.read_text().endswith("|\n"))
        assert written.read_text() == f"{completed}|\n"
    finally:
        shell.close()


class Terminal:
    """A shell that believes a person is typing."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.seen = ""
        self._fd, inside = pty.openpty()
        self._process = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
        )
        os.close(inside)

    def send(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait(self, arrived: Callable[[], bool]) -> None:
        limit = time.monotonic() + PATIENCE
        while not arrived():
            assert time.monotonic() < limit, f"the shell never got there: {self.seen!r}"
            if select.select([self._fd], [], [], 0.05)[0]:
                self.seen += os.read(self._fd, 65536).decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)
