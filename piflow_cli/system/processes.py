"""One run on several processes: those that torchrun or accelerate started, or those that we start."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from ..errors import Preempted, Reported, RunError, UsageError
from ..ranks import launched_here, launched_processes
from ..streams import inherited
from .devices import choose_device, usable_cores
from .preemption import passing_on

if TYPE_CHECKING:
    import torch

# The others wait while one makes its last block, encodes its texts or measures: hours, for a teacher's many steps.
# NCCL would give up after ten minutes.
LONGEST = timedelta(days=7)
# After Ctrl-C the processes finish their step and save; a step of a large model may take minutes.
SECONDS_TO_STOP = 1800

PROGRAM = "piflow_cli"
# Tells a process that piflow started which process that was.
LAUNCHER = "PIFLOW_LAUNCHER"
# And when it was, by a clock that all processes of a machine share.
BEGAN = "PIFLOW_BEGAN"
UNBEGUN, AGAIN = "stopped before the run had begun", "run the same command again"
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


@contextmanager
def environment(changes: Mapping[str, str] | None = None, *, without: str | None = None) -> Generator[None]:
    """Set environment variables to ``changes`` for the block, and unset all that begin with ``without``."""
    changed = {} if changes is None else changes

    def touched() -> list[str]:
        return [name for name in os.environ if name in changed or (without is not None and name.startswith(without))]

    before = {name: os.environ.pop(name) for name in touched()}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name in touched():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def accelerate_anew() -> Generator[None]:
    """Let accelerate forget for the block what it was asked for before: else it keeps device and precision for good.

    Processes that were launched together keep what they have, their connections.
    """
    if launched_processes() > 1:
        yield
        return
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in states]
    for state in states:
        state.clear()
    try:
        yield
    finally:
        for state, kept in zip(states, before, strict=True):
            state.clear()
            state.update(kept)


def process_count(asked: int | None, device: str) -> int:
    """The number of processes of a run, as asked or as started; raises UsageError where ``device`` has too few GPUs."""
    started = launched_processes()
    wanted = started if asked is None else asked
    if started > 1 and wanted != started:
        raise UsageError(
            f"--num-processes {asked}: torchrun or accelerate has started {started}", "leave --num-processes out"
        )
    if wanted == 1:
        return 1
    if ":" in device:
        raise UsageError(
            f"--device {device} is one device, and there are to be {wanted} processes",
            "type --device cuda, or --device cpu",
        )
    check_devices(choose_device(device), wanted if started == 1 else None)
    return wanted


def check_devices(device: torch.device, asked: int | None = None) -> None:
    """Raise UsageError where this machine has fewer GPUs than processes, ``asked`` for or started; CPUs are shared."""
    if device.type != "cuda":
        return
    import torch

    devices = torch.cuda.device_count()
    if asked is not None and asked > devices:
        raise UsageError(
            f"--num-processes {asked}: there are {devices} CUDA devices", f"type --num-processes {devices}"
        )
    if (started := launched_here()) > devices:
        raise UsageError(
            f"torchrun or accelerate has started {started} processes on this machine: there are {devices} CUDA devices",
            f"type --device cpu, or let it start {devices} here",
        )


def launch(arguments: Sequence[str], processes: int, preemptible: bool = False) -> None:
    """Run the command line ``arguments`` of piflow in ``processes`` processes on this machine, and wait for them.

    ``preemptible``: they save by SIGTERM and SIGUSR1, and tell by their exit codes whether they could.

    Raises Reported, with their exit code, where they were stopped or have said what failed; RunError where one was
    killed; Preempted where SIGTERM or SIGUSR1 came before they had begun.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    changes = {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // processes)),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_TO_STOP),
    }
    changes = {name: os.environ.get(name, value) for name, value in changes.items()}
    changes |= {LAUNCHER: str(os.getpid()), BEGAN: str(time.monotonic())}
    # The process that failed reports its failure.
    elastic = logging.getLogger("torch.distributed.elastic")
    elastic.propagate = False
    elastic.addHandler(logging.NullHandler())
    parser = run.get_args_parser()
    options = [
        "--standalone",
        f"--nproc-per-node={processes}",
        *_signals(parser.format_help()),
        "-m",
        PROGRAM,
        "--",
        *arguments,
    ]
    try:
        with environment(changes), inherited(), passing_on(PROGRAM if preemptible else None) as came:
            if came:
                raise Preempted(UNBEGUN, AGAIN)
            run.run(parser.parse_args(options))
    except SignalException as error:
        raise Reported(128 + error.sigval) from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if -failure.exitcode in came:
            raise Preempted(UNBEGUN, AGAIN) from error
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise RunError(
                f"process {rank} of {processes} was killed by {name}", "look whether the memory was full"
            ) from error
        raise Reported(failure.exitcode) from error


def follow_launcher() -> None:
    """Let this process get SIGTERM when the process that launched it dies, however it dies.

    Linux alone knows how; elsewhere, and where piflow has not launched it, nothing is done.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return
    try:
        ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGTERM)
    except (OSError, AttributeError, TypeError):
        return
    if os.getppid() != int(launcher):
        # It died before it could be followed.
        os.kill(os.getpid(), signal.SIGTERM)


def command_began(own: float) -> float:
    """When the command began, by time.monotonic: ``own``, or of the process that launched this one."""
    return float(os.environ[BEGAN]) if LAUNCHER in os.environ and BEGAN in os.environ else own


def _signals(known: str) -> list[str]:
    """Options of torchrun's launcher, described by ``known``: it ignores SIGHUP under nohup.

    SIGTERM it never gets where that is passed on, since it is held then.
    """
    hang_up = getattr(signal, "SIGHUP", None)
    ignored = hang_up is None or signal.getsignal(hang_up) == signal.SIG_IGN
    if not ignored or "--signals-to-handle" not in known:
        return []
    return ["--signals-to-handle=SIGTERM,SIGINT,SIGQUIT"]
