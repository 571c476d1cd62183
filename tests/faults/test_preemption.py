"""SIGTERM and SIGUSR1 at any time of a run: exit code 0, one line, and the same command ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from own_process import piflow
from process_runs import adapters, whole
from run_rows import course_of
from safetensors.torch import load_file

from piflow_cli.training import run

# The machine is taken away in the first import of torch, in each process that makes one.
AT_IMPORT = """
import os, signal, sys

class Taken:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), getattr(signal, os.environ["TAKEN_BY"]))

sys.meta_path.insert(0, Taken())
from piflow_cli.app import main
sys.exit(main(sys.argv[1:]))
"""
BY_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
WEIGHTS = "adapter/diffusion_pytorch_model.safetensors"
NUMBERS = (signal.SIGTERM, signal.SIGUSR1)


def asked_in(monkeypatch: pytest.MonkeyPatch, place: object, name: str, number: int, due: Callable[[], bool]) -> None:
    """Have the machine taken away before ``name`` of ``place`` is called, where that is ``due``."""
    real = getattr(place, name)

    def call(*given, **options):
        if due():
            os.kill(os.getpid(), number)
        return real(*given, **options)

    monkeypatch.setattr(place, name, call)


def once() -> Callable[[], bool]:
    left = [True]
    return lambda: bool(left and left.pop())


def third() -> Callable[[], bool]:
    calls: list[None] = []
    return lambda: calls.append(None) or len(calls) == 3


@pytest.fixture(scope="module")
def undisturbed(tiny_teacher, tmp_path_factory) -> Path:
    """The run that nobody stops."""
    from piflow_cli.app import main

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    told = ["--teacher", str(tiny_teacher), "--device", "cpu", "--quiet", "--output", str(folder)]
    assert main(["distill", *told]) == 0
    return folder


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("name", "due", "says"),
    [
        ("save_preview", once, "Stopped at iteration 4 of 6; everything is saved: "),
        ("save", once, "Stopped at iteration 3 of 6; everything is saved: "),
        ("save", third, "All 6 iterations are done and saved, but the last pictures are not drawn: "),
        ("save_comparison", once, "All 6 iterations are done and saved, but the last pictures are not drawn: "),
    ],
)
def test_in_a_preview_a_save_and_at_the_end(
    cli, tiny_teacher, undisturbed, tmp_path, monkeypatch, name, due, says, number
) -> None:
    arguments = ["distill", "--teacher", str(tiny_teacher), "--device", "cpu", "--output"]
    asked_in(monkeypatch, run, name, number, due())
    outcome = cli(*arguments, str(tmp_path / "run"), "--quiet")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == f"{says}run the same command again to go on\n"
    assert not list((tmp_path / "run").rglob(".*")) and not (tmp_path / "run" / "run.lock").exists()
    monkeypatch.undo()
    assert cli(*arguments, str(tmp_path / "run"), "--quiet").code == 0
    assert course_of(tmp_path / "run") == course_of(undisturbed)
    picture = "previews/0000003.png"
    assert (tmp_path / "run" / picture).read_bytes() == (undisturbed / picture).read_bytes()
    for path in ("checkpoints/0000006/training.safetensors", WEIGHTS):
        found = load_file(tmp_path / "run" / path)
        assert all(torch.equal(value, found[key]) for key, value in load_file(undisturbed / path).items()), path
    assert (tmp_path / "run" / "samples.png").is_file()


@pytest.mark.parametrize("number", NUMBERS)
def test_while_prompts_are_encoded(cli, text_encoders, tmp_path, monkeypatch, number) -> None:
    """Nothing of a run is there yet; what has been encoded is used by the next start."""
    from piflow_cli.teachers import families

    arguments = ["distill", *adapters(tmp_path, tmp_path), "--iterations", "2", "--device", "cpu"]
    arguments += ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("piflow_cli.data.encode.TEXTS_AT_ONCE", 1)
    kind, encoded = families()["flux"], []
    real = kind.encode_prompts
    monkeypatch.setattr(
        kind, "encode_prompts", lambda self, used, texts: encoded.extend(texts) or real(self, used, texts)
    )
    with monkeypatch.context() as patch:
        asked_in(patch, kind, "encode_prompts", number, third())
        outcome = cli(*arguments, "--json")
    said = json.loads(outcome.err)
    assert (outcome.code, outcome.out, said["exit_code"]) == (0, "", 0)
    assert said["stopped"] == "stopped before the first step; what was encoded until now is kept"
    assert not (tmp_path / "out").exists()
    assert len(encoded) == 2
    assert cli(*arguments, "--quiet").code == 0
    assert len(encoded) == len(set(encoded)) == 5
    assert (tmp_path / "out" / WEIGHTS).is_file()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("launcher", "more", "state"),
    [
        ([], [], "Stopped before the first step; what was encoded until now is kept"),
        ([], ["--num-processes", "2"], "Stopped before the run had begun"),
        pytest.param(BY_TORCHRUN, [], "Stopped before the first step; what was encoded until now is kept",
                     marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_while_torch_is_imported(tiny_teacher, tmp_path, launcher, more, state, number) -> None:
    (tmp_path / "taken.py").write_text(AT_IMPORT)
    command = [sys.executable, *launcher, str(tmp_path / "taken.py"), "distill", "--teacher", str(tiny_teacher)]
    done = subprocess.run(
        [*command, "--device", "cpu", "--output", "out", *more], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"TAKEN_BY": number.name},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    # torchrun warns of what it sets.
    said = [line for line in done.stderr.splitlines() if "torch.distributed" not in line and set(line) != {"*"}]
    assert said[-1] == f"{state}: run the same command again{' to go on' if not more else ''}"
    assert [line for line in said if "topped" in line] == said[-1:] and "Error" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_plan_and_a_refusal_stay_what_they_are(tiny_teacher, tmp_path) -> None:
    """A plan is nothing to be kept: the signal ends it as any other program; a refused run has nothing to stop."""
    (tmp_path / "taken.py").write_text(AT_IMPORT)
    for more, code in (["--dry-run"], -signal.SIGTERM), (["--nfe", "0"], 2):
        done = subprocess.run(
            [sys.executable, "taken.py", "distill", "--teacher", str(tiny_teacher), *more], cwd=tmp_path,
            capture_output=True, text=True, env=os.environ | {"TAKEN_BY": "SIGTERM"},
        )  # fmt: skip
        assert done.returncode == code and "topped" not in done.stderr


@pytest.mark.parametrize("number", NUMBERS)
def test_processes_that_have_only_been_launched_end_with_one_line(tiny_teacher, tmp_path, number) -> None:
    command = piflow("distill", *whole(tiny_teacher, tmp_path), "--device", "cpu", "--output", str(tmp_path / "out"))
    command += ["--num-processes", "2", "--iterations", "100000", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while len(psutil.Process(process.pid).children()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        out, said = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, ""), said
    state = "Stopped before the first step; what was encoded until now is kept"
    assert said == f"{state}: run the same command again to go on\n"
    assert not (tmp_path / "out").exists()


WAITS = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
print("waits", flush=True)
print(int(signal.sigwait((signal.SIGTERM, signal.SIGUSR1))))
"""
# In a process of its own, which has no other threads that could take the signal.
LAUNCHES = """
import os, subprocess, sys
from piflow_cli.system.preemption import passing_on
waits, number = sys.argv[1], int(sys.argv[2])
ours, other = (
    subprocess.Popen([sys.executable, "-S", "-c", waits, name], stdout=subprocess.PIPE, text=True)
    for name in ("a program", "another")
)
assert ours.stdout.readline() == other.stdout.readline() == "waits\\n"
with passing_on("a program") as came:
    os.kill(os.getpid(), number)
    told = ours.communicate()[0].strip()
print([int(one) for one in came], told, other.poll())
other.kill()
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_launcher_passes_it_on_to_the_program_alone_and_lives(number) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHES, WAITS, str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"{[int(number)]} {int(number)} None\n"), done.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.long)])
def test_what_launched_several_processes_passes_it_on(tiny_teacher, tmp_path, number) -> None:
    folder = tmp_path / "out"
    command = piflow("distill", *whole(tiny_teacher, tmp_path), "--device", "cpu", "--output", str(folder))
    command += ["--num-processes", "2", "--iterations", "100000", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoints/[0-9]*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        out, said = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, ""), said
    [line] = said.splitlines()
    assert line.startswith("Stopped at iteration ") and line.endswith(": run the same command again to go on")
    stopped = int(line.split("iteration ")[1].split()[0])
    assert load_file(folder / "checkpoints" / f"{stopped:07d}" / "training.safetensors")
    assert not (folder / "run.lock").exists()
