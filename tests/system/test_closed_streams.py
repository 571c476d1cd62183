"""stdin, stdout or stderr closed before the start, by the shell, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CLOSED = "stdout is closed, and results go there"
NOWHERE = "where nobody is to read them: > /dev/null"


def run(redirection: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'"$0" -m piflow_cli "$@" {redirection}', sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments",
    [
        "sample --teacher digits --steps 1 --seeds 0",
        "distill --teacher digits --json",
        "distill --list-teachers",
        "--version --json",
        "eval --help",
        "",
    ],
)
@pytest.mark.parametrize("closed", [">&-", "1</dev/null"])
def test_what_cannot_be_printed_is_a_failure_before_anything_is_computed(tmp_path, arguments, closed):
    done = run(closed, *arguments.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (1, "", [])
    if "--json" in arguments:
        assert json.loads(done.stderr) == {"error": CLOSED, "hint": NOWHERE, "exit_code": 1}
    else:
        assert done.stderr == f"Error: {CLOSED}\n  → {NOWHERE}\n"


def test_the_line_to_nobody_leaves_the_exit_code(tmp_path):
    done = run("<&- >&- 2>&-", "distill", "--list-teachers", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_result_does_not_need_the_other_streams(tmp_path):
    options = ["--teacher", "digits", "--steps", "1", "--seeds", "0", "--output", "out", "--json"]
    done = run("<&- 2>&-", "sample", *options, cwd=tmp_path)
    assert (done.returncode, Path(json.loads(done.stdout)["grid"])) == (0, Path("out/grid.png"))
    # Were a picture opened as stderr, words would be in it.
    assert (tmp_path / "out" / "000000.png").read_bytes()[-8:-4] == b"IEND"


def test_a_run_trains_when_only_its_progress_cannot_be_printed(tiny_teacher, tmp_path):
    done = run("<&- 2>&-", "distill", "--teacher", str(tiny_teacher), "--output", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["iterations"] == 6
    assert (tmp_path / "out" / "adapter").is_dir()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path, closed):
    """After the command has begun the three numbers are taken, whatever was closed, and children get them too."""
    program = (
        "import os, subprocess, sys\n"
        "from piflow_cli import streams\n"
        "streams.occupy()\n"
        "number = os.open(os.devnull, os.O_WRONLY)\n"
        "child = subprocess.run([sys.executable, '-c', 'import os; [os.fstat(n) for n in range(3)]'])\n"
        f"open({str(tmp_path / 'told')!r}, 'w').write(f'{{number > 2}} {{child.returncode}}')\n"
    )
    subprocess.run(["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, program], check=True)
    assert (tmp_path / "told").read_text() == "True 0"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize(
    ("arguments", "words"), [("distill --list-teachers", "the result cannot be printed: "), ("--help", "the disk is")]
)
def test_what_a_full_disk_does_not_take_is_a_failure(tmp_path, arguments, words):
    done = run("> /dev/full", *arguments.split(), cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(f"Error: {words}")
