"""The scripts of the page on machines: Slurm's with stand-ins for its programs, and processes that nobody launched."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import blocks
from own_process import piflow
from torch.distributed.run import get_args_parser

SCRIPTS = {block.title: block.text for block in blocks() if block.page == "machines.md" and block.language == "sh"}
SRUN = """#!/bin/bash
# Runs the task as Slurm does, signals all of its processes, and tells its words.
"$@" &
sleep 0.2
kill -USR1 $!
wait $!
"""
TORCHRUN = """#!/bin/bash
sleep 0.5
printf '%q ' "$@" > torchrun.txt
exit "$ENDS"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node1\\nnode2\\n'; else echo "$@" >> scontrol.txt; fi
"""
PIFLOW = """#!/bin/bash
echo "$@" > piflow.txt
if [ -z "$STATE" ]; then exit 2; fi
echo "{\\"state\\": \\"$STATE\\"}"
"""
SLURM = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "77"}
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@needs_bash
@pytest.mark.parametrize(
    ("state", "ends", "requeued"),
    [("stopped", 0, True), ("finished", 0, False), ("stopped", 1, False), ("broken", 1, False), ("", 0, True)],
)
def test_the_job_goes_back_into_the_queue_where_the_run_has_stopped_well(
    tmp_path: Path, state: str, ends: int, requeued: bool
) -> None:
    """The launcher outlives Slurm's signal, and learns of all machines. Without a state there is no run yet."""
    for name, text in {"srun": SRUN, "torchrun": TORCHRUN, "scontrol": SCONTROL, "piflow": PIFLOW}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    variables = {**os.environ, **SLURM, "PATH": path, "STATE": state, "ENDS": str(ends)}
    done = subprocess.run(
        ["bash", "-c", SCRIPTS["flux-dev.sbatch"]], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (ends, "")
    # Of a run that has failed nothing is asked.
    asked = {
        name: (tmp_path / name).read_text() for name in ("piflow.txt", "scontrol.txt") if (tmp_path / name).exists()
    }
    status = {} if ends else {"piflow.txt": "status runs/flux-dev --json\n"}
    assert asked == status | ({"scontrol.txt": "requeue 77\n"} if requeued else {})
    told = launched((tmp_path / "torchrun.txt").read_text())
    assert (told.nnodes, told.nproc_per_node, told.rdzv_endpoint, told.rdzv_id) == ("2", "8", "node1:29500", "77")
    assert told.module and told.training_script == "piflow_cli" and told.training_script_args[0] == "distill"


def launched(words: str) -> argparse.Namespace:
    return get_args_parser().parse_args(shlex.split(words))


def test_slurm_is_told_what_the_page_says() -> None:
    options = [line.split()[1] for line in SCRIPTS["flux-dev.sbatch"].splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= {*options}


@needs_bash
@pytest.mark.long
def test_processes_that_were_started_by_hand_draw_what_one_draws(cli, tiny_run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    alone = cli("sample", str(tiny_run), "--batch-size", "16", "--device", "cpu", "--output", "one")
    assert alone.code == 0, alone.err
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    text = SCRIPTS["two.sh"].replace("runs/digits", f"{shlex.quote(str(tiny_run))} --output two").replace("29500", port)
    done = subprocess.run(
        ["bash", "-c", text.replace("piflow ", f"{shlex.join(piflow())} ")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    made = {name: {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")}
    assert made["one"] == made["two"] and len(made["one"]) == 65
