"""Several processes: the same run as one process has, resumed and stopped alike, for
students of adapters and for whole ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch
from own_process import piflow
from process_runs import adapters, same, trained, two_networks, whole

from piflow_cli.errors import UsageError
from piflow_cli.presets.resolve import load
from piflow_cli.system import processes
from piflow_cli.system.processes import process_count
from piflow_cli.training import opening


@pytest.mark.parametrize("student", [whole, adapters, two_networks])
def test_two_processes_train_and_resume_as_one_does(cli, text_encoders, tiny_teacher, tmp_path, student) -> None:
    # One process encodes the texts, by the fixture's encoders; the two find them in the cache.
    arguments = ["distill", *student(tiny_teacher, tmp_path), "--quiet", "--device", "cpu"]
    assert cli(*arguments, "--output", str(tmp_path / "one")).code == 0
    # Each half by another number of processes, which a run may go on with.
    first, second = ([], ["--num-processes", "2"]) if student is adapters else (["--num-processes", "2"], [])
    two = [*arguments, "--output", str(tmp_path / "two")]
    assert cli(*two, *first, "--iterations", "2").code == 0
    assert cli(*two, *second, "--iterations", "4").code == 0
    # Sums in another order.
    same(tmp_path / "two", tmp_path / "one", 1e-5)


def test_the_others_wait_for_hours_and_gradients_lie_in_what_is_exchanged(monkeypatch, tmp_path, tiny_teacher) -> None:
    made = []
    monkeypatch.setattr(opening, "Accelerator", lambda **options: made.extend(options["kwargs_handlers"]))
    opening._accelerator(load(str(tiny_teacher)), tmp_path, torch.device("cpu"))
    waiting, exchange = (handler.to_kwargs() for handler in made)
    assert waiting["timeout"] >= timedelta(days=1)
    assert exchange == {"gradient_as_bucket_view": True}


def test_ctrl_c_stops_all_processes_at_one_step(tiny_teacher, tmp_path) -> None:
    folder = tmp_path / "out"
    command = piflow("distill", *whole(tiny_teacher, tmp_path), "--device", "cpu", "--output", str(folder))
    command += ["--num-processes", "2", "--iterations", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoints/[0-9]*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    errors = [line for line in said.splitlines() if line.startswith("Error")]
    assert len(errors) == 1 and "everything is saved" in errors[0] and "Traceback" not in said
    stopped = int(errors[0].split("iteration ")[1].split()[0])
    assert (folder / "checkpoints" / f"{stopped:07d}").is_dir()


def test_what_the_processes_cannot_do_is_said_once_with_their_exit_code(tmp_path) -> None:
    command = piflow("distill", "--teacher", "digits", "--num-processes", "2", "--device", "cpu")
    done = subprocess.run([*command, "--batch-size", "3"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and not list(tmp_path.iterdir())
    error, hint = done.stderr.splitlines()
    assert error == "Error: a batch of 3 cannot be shared by 2 processes" and "--batch-size 4" in hint


def test_a_dry_run_counts_the_processes_and_starts_none(cli, monkeypatch) -> None:
    monkeypatch.setattr(processes, "launch", lambda *given: pytest.fail("a dry run was launched"))
    plan = json.loads(
        cli("distill", "--teacher", "digits", "--num-processes", "4", "--device", "cpu", "--dry-run", "--json").out
    )
    assert plan["optimisation"]["batch"].startswith("128 = 4 x 32 x 1")


@pytest.mark.parametrize(
    ("started", "asked", "device", "message"),
    [
        ("2", 3, "cpu", "--num-processes 3: torchrun or accelerate has started 2"),
        ("1", 2, "cuda:1", "--device cuda:1 is one device, and there are to be 2 processes"),
        ("2", None, "cuda:0", "--device cuda:0 is one device"),
        ("1", 5, "cuda", "--num-processes 5: there are 4 CUDA devices"),
    ],
)
def test_processes_that_do_not_fit_are_refused(monkeypatch, started, asked, device, message) -> None:
    monkeypatch.setenv("WORLD_SIZE", started)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UsageError, match=message):
        process_count(asked, device)


@pytest.mark.parametrize("command", [["sample", "{run}"], ["eval", "{run}"], ["distill", "--teacher", "digits"]])
def test_more_processes_than_devices_are_refused_by_both_numbers(cli, monkeypatch, tiny_run, tmp_path, command) -> None:
    """A CPU is shared by as many as there are to be."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    command = [word.format(run=tiny_run) for word in command]
    asked = cli(*command, "--device", "cuda", "--num-processes", "5", "--output", str(tmp_path))
    assert asked.code == 2 and "--num-processes 5: there are 4 CUDA devices\n  → type --num-processes 4" in asked.err
    # As torchrun has it on two machines, one of which has fewer GPUs than processes.
    for name, value in {"WORLD_SIZE": "12", "LOCAL_WORLD_SIZE": "6", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    started = cli(*command, "--device", "cuda", "--output", str(tmp_path))
    assert started.code == 2 and "type --device cpu, or let it start 4 here" in started.err
    assert "has started 6 processes on this machine: there are 4 CUDA devices" in started.err
    assert process_count(None, "cpu") == 12


def test_processes_that_were_started_are_counted(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_count(None, "cpu") == process_count(2, "cpu") == 2
    monkeypatch.delenv("WORLD_SIZE")
    assert process_count(None, "cpu") == 1 and os.environ.get("RANK") is None


SPOILED = """
import math, os, sys
from piflow_cli.app import main
from piflow_cli.training import loop
losses, calls = loop.data_dependent_loss, []
def spoiled(*given):
    calls.append(None)
    return losses(*given) * (math.nan if os.environ["RANK"] == "1" and len(calls) == 2 else 1.0)
loop.data_dependent_loss = spoiled
sys.exit(main(sys.argv[1:]))
"""


def test_all_processes_skip_the_step_that_one_cannot_take(tiny_teacher, tmp_path) -> None:
    """Started by torchrun, with variables of accelerate about, into one folder."""
    (tmp_path / "spoiled.py").write_text(SPOILED)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(tmp_path / "spoiled.py"),
    ]
    command += [
        "distill",
        "--teacher",
        str(tiny_teacher),
        "--device",
        "cpu",
        "--iterations",
        "4",
        "--output",
        str(tmp_path / "out"),
        "--json",
    ]
    variables = {**os.environ, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "fp16"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"] == 1 and "iterations 2 (1 so far)" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows] == [False, True, False, False]
    saved = trained(tmp_path / "out")
    assert all(value.isfinite().all() for value in saved.values())


def test_launching_leaves_the_environment_as_it_was(tmp_path, monkeypatch) -> None:
    from torch.distributed import run

    seen = {}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    monkeypatch.setattr(run, "run", lambda options: seen.update(os.environ, options=options))
    processes.launch(["distill"], 2)
    assert dict(os.environ) == before
    assert (
        seen["OMP_NUM_THREADS"]
        and seen[processes.LAUNCHER] == str(os.getpid())
        and "SIGHUP" in seen["options"].signals_to_handle
    )


def test_signals_that_processes_save_by_wait_for_us_to_pass_them_on(monkeypatch) -> None:
    from torch.distributed import run

    seen = []
    monkeypatch.setattr(run, "run", lambda options: seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    processes.launch(["distill"], 2, preemptible=True)
    processes.launch(["another"], 2)
    assert seen == [before | {signal.SIGTERM, signal.SIGUSR1}, before]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_under_nohup_the_launcher_goes_on_too(monkeypatch) -> None:
    from torch.distributed import run

    seen = []
    monkeypatch.setattr(run, "run", seen.append)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        processes.launch(["distill"], 2, preemptible=True)
        processes.launch(["another"], 2)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [options.signals_to_handle for options in seen] == 2 * ["SIGTERM,SIGINT,SIGQUIT"]
