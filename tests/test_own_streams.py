"""Only our own words with --json and --quiet: whatever a library writes, and by whatever means, does not arrive."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

# A command whose library call makes every kind of noise, and speaks itself through the console; run as the console
# script is.
NOISE = """
import ctypes, logging, os, subprocess, sys, threading, types, warnings
logging.basicConfig()
early = sys.stderr
def distill(preset, output, device, resume, console, parallel, fork, began):
    print("noise on stdout"); print("noise on stderr", file=sys.stderr)
    early.write("noise of a stream taken earlier\\n")
    warnings.warn("noise", FutureWarning); logging.getLogger("transformers").error("noise")
    for name in ("bitsandbytes.backends.cpu.ops", "otherlibrary"):
        logging.getLogger(name).warning(name + " warning"); logging.getLogger(name).error(name + " error")
    os.write(1, b"noise"); os.write(2, b"noise"); ctypes.CDLL(None).puts(b"noise kept back by the C library")
    subprocess.run([sys.executable, "-c", "import sys; print('noise', file=sys.stderr)"])
    console.warn("ours"); console.say("news")
    other = threading.Thread(target=console.warn, args=("ours from a thread",))
    other.start(); other.join()
    FAIL
    return {"loss": 1.0}
sys.modules["piflow_cli.training"] = types.SimpleNamespace(distill=distill)
import atexit; atexit.register(lambda: os.write(2, b"noise at the end"))
from piflow_cli.app import main
sys.argv[1:] = ARGUMENTS
sys.exit(main())
"""


@cache
def run(*arguments: str, fail: str = "pass", **environment: str) -> subprocess.CompletedProcess:
    program = NOISE.replace("ARGUMENTS", repr(["distill", "--teacher", "digits", *arguments])).replace("FAIL", fail)
    return subprocess.run(
        [sys.executable, "-c", program], env={"PATH": "", **environment}, capture_output=True, text=True
    )


def test_quiet_leaves_the_result_alone():
    done = run("--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "loss  1\n", "")


def test_json_leaves_the_result_and_our_warnings():
    done = run("--json")
    assert json.loads(done.stdout) == {"loss": 1.0} and done.returncode == 0
    assert [json.loads(line)["warning"] for line in done.stderr.splitlines()] == ["ours", "ours from a thread"]


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_our_own_errors_come_out(option):
    done = run(option, fail="raise ValueError('a fault of ours')")
    assert done.returncode == 1 and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "ours" in line and "fault" in line]
    assert len(lines) == 1 and "noise" not in done.stderr


def test_without_them_and_for_whoever_debugs_nothing_is_held_back():
    assert run().stderr.count("noise") >= 6
    assert run("--quiet", PIFLOW_DEBUG="1").stderr.count("noise") >= 6


def test_what_bitsandbytes_says_of_itself_does_not_come_but_its_errors_do():
    """As it is imported, on a machine without a GPU: by a logger of its own, which others leave at warnings."""
    said = run().stderr
    assert "bitsandbytes.backends.cpu.ops warning" not in said
    for line in ("bitsandbytes.backends.cpu.ops error", "otherlibrary warning", "otherlibrary error"):
        assert line in said
    assert "bitsandbytes.backends.cpu.ops warning" in run("--quiet", PIFLOW_DEBUG="1").stderr


def test_within_a_process_the_streams_come_back(capfd):
    from piflow_cli import streams

    with streams.only_ours():
        print("noise")
        print("data", file=streams.out())
        print("news", file=streams.err())
        with streams.inherited():
            subprocess.run([sys.executable, "-c", "print('a worker')"])
    print("after")
    assert capfd.readouterr() == ("data\na worker\nafter\n", "news\n")
