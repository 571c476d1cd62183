"""Output whose reader goes away."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from own_process import piflow

from piflow_cli.app import app, main
from piflow_cli.streams import UnbreakableStream, unbreakable

COMMANDS = [(command.name,) for command in app.registered_commands]


class Broken:
    """A stream that fails from the second line on."""

    def __init__(self, number: int) -> None:
        self.number, self.text = number, ""

    def write(self, text: str) -> int:
        if self.text:
            raise OSError(self.number, os.strerror(self.number))
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_a_stream_falls_silent_instead_of_failing(number) -> None:
    inside = Broken(number)
    stream = UnbreakableStream(inside)
    for line in ("one\n", "two\n", "three\n"):
        assert print(line, end="", file=stream, flush=True) is None
    assert inside.text == "one\n" and stream.isatty()


def test_streams_come_back_and_closed_ones_lead_to_nowhere(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with unbreakable("stderr"):
        print("nobody", file=sys.stderr)
        assert sys.stderr.isatty() is False
    assert sys.stderr is None


def started(tiny_teacher: Path, folder: Path, *options: str, **streams) -> subprocess.Popen:
    command = piflow("distill", "--teacher", str(tiny_teacher), "--device", "cpu")
    return subprocess.Popen([*command, "--output", str(folder / "out"), *options], cwd=folder, **streams)


# One process for two runs: importing torch takes longer than either.
TWICE = """
import sys
from piflow_cli.app import main
words = sys.argv[1:]
sys.exit(main([*words, "--output", "out"]) or main([*words, "--output", "as json", "--json"]))
"""


def test_a_run_goes_on_when_its_reader_dies(tiny_teacher, tmp_path) -> None:
    command = [sys.executable, "-c", TWICE, "distill", "--teacher", str(tiny_teacher), "--device", "cpu"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdout.close()
        assert process.wait(120) == 0
    for name in ("out", "as json"):
        assert (tmp_path / name / "adapter").is_dir() and (tmp_path / name / "checkpoints" / "0000006").is_dir()


def test_a_run_goes_on_when_its_terminal_closes(tiny_teacher, tmp_path) -> None:
    """Both ends of a pseudo-terminal, the other one closed at once: every write fails with EIO."""
    other, ours = pty.openpty()
    with started(
        tiny_teacher, tmp_path, stdin=subprocess.DEVNULL, stdout=ours, stderr=ours, start_new_session=True
    ) as process:
        os.close(ours)
        os.close(other)
        assert process.wait(120) == 0
    assert (tmp_path / "out" / "adapter").is_dir()


def test_an_error_that_nobody_reads_keeps_its_exit_code(tmp_path) -> None:
    command = piflow("distill", "--teacher", "nowhere")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdout.close()
        assert process.wait(60) == 2


def test_other_commands_say_that_their_reader_has_gone(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(errno.EPIPE))
    sys.stdout.write("the first line\n")
    assert main(["distill", "--list-teachers"]) == 1
    said = capsys.readouterr().err
    assert "what was reading the output has gone" in said and "report it" not in said


@pytest.mark.parametrize("arguments", [(), *COMMANDS])
def test_help_that_is_no_longer_read_has_been_read(tmp_path, arguments) -> None:
    """As in `piflow sample --help | head -1`: whether the reader leaves before the end or not is a matter of luck."""
    assert unread(tmp_path, *arguments, "--help") == (0, "")


def test_without_a_command_it_is_said_so_though_nobody_reads_the_help(tmp_path) -> None:
    assert unread(tmp_path) == (2, "Error: no command given\n  → piflow --help lists the commands\n")


def test_a_pipe_that_breaks_elsewhere_is_said(monkeypatch, capsys) -> None:
    """Typer ends at each with 1, without a word, and puts other streams in the place of these."""

    def examine(checks: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "a worker has gone")

    monkeypatch.setattr("piflow_cli.doctor.examine", examine)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    assert main(["doctor", "--quiet"]) == 1
    assert "BrokenPipeError: [Errno 32] a worker has gone" in capsys.readouterr().err


def unread(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose reader has gone before it begins."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(piflow(*arguments), cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    return done.returncode, done.stderr
