"""The processes of one run as a group: each does its share of the work, and the first hears what came of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from ..errors import Reported, RunError, explain
from ..ranks import is_first, launched_processes
from .devices import choose_device
from .processes import LONGEST, check_devices

Result = TypeVar("Result")
Item = TypeVar("Item")

# What launched the processes ends them once one is gone, and says which; this is time enough for that.
SECONDS_TO_BE_ENDED = 5


class Peers(Protocol):
    """How processes tell each other objects; all of them call the same method, or each waits for the others."""

    def tell_all(self, told: object) -> list[Any]:
        """What each process told, by rank."""

    def tell_first(self, told: object) -> list[Any]:
        """What each process told, by rank, on the first; nothing on the others."""


@dataclass(frozen=True)
class Processes:
    """This process among those that torchrun or accelerate started; it has no ``peers`` where it is alone.

    Each method is called by all of them alike. An error that a user can cause, on any of them, ends all: the first
    raises it, the others raise Reported.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    peers: Peers | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def together(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns on this process, once it has returned on all."""
        if self.peers is None:
            return work()
        found: Any = None
        error = cause = None
        try:
            found = work()
        except Exception as failed:
            # Of a fault of the program the traceback counts: it ends this process, and with it the others.
            if (error := explain(failed)) is None:
                raise
            cause = failed
        failures = [told for told in self.peers.tell_all(error) if told is not None]
        if not failures:
            return found
        if self.first:
            raise failures[0] from cause
        raise Reported(failures[0].exit_code)

    def gather(self, work: Callable[[], Result]) -> list[Result]:
        """What ``work`` returns on each process, by rank, on the first; nothing on the others."""
        found = self.together(work)
        return [found] if self.peers is None else self.peers.tell_first(found)

    def of_first(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns on the first process, which alone does it."""
        found: Any = self.together(lambda: work() if self.first else None)
        return found if self.peers is None else self.peers.tell_all(found)[0]

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's share of ``items``: every N-th for N processes, whatever time each item takes."""
        return items[self.rank :: self.count]

    def turns(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """``items`` in turns of one for each process, in their order; the last turn may be too short for all."""
        for start in range(0, len(items), self.count):
            yield items[start : start + self.count]


def open_processes(device: str) -> Processes:
    """The process group of the environment, or this process alone; raises UsageError for a missing device."""
    chosen = choose_device(device)
    if launched_processes() == 1:
        return Processes(chosen)
    check_devices(chosen)
    from accelerate import PartialState

    state = PartialState(cpu=chosen.type == "cpu", timeout=LONGEST)
    own = chosen if chosen.type == "cpu" or state.device is None else state.device
    return Processes(own, state.process_index, state.num_processes, _OverGloo())


class _OverGloo:
    """Peers in a torch.distributed group of their own: objects stay in host memory, whatever gradients travel by."""

    def __init__(self) -> None:
        self.group: Any = torch.distributed.new_group(backend="gloo", timeout=LONGEST)

    def tell_all(self, told: object) -> list[Any]:
        answers: list[Any] = [None] * torch.distributed.get_world_size()
        _unless_one_is_gone(lambda: torch.distributed.all_gather_object(answers, told, group=self.group))
        return answers

    def tell_first(self, told: object) -> list[Any]:
        first = torch.distributed.get_rank() == 0
        answers: list[Any] | None = [None] * torch.distributed.get_world_size() if first else None
        _unless_one_is_gone(lambda: torch.distributed.gather_object(told, answers, dst=0, group=self.group))
        return [] if answers is None else answers


def _unless_one_is_gone(exchange: Callable[[], None]) -> None:
    """Let ``exchange`` run; where another process ends amid it, wait to be ended too, since that one has spoken."""
    try:
        exchange()
    except RuntimeError as error:
        time.sleep(SECONDS_TO_BE_ENDED)
        if not is_first():
            raise Reported(RunError.exit_code) from error
        raise RunError(
            "another process of this run has ended", "look at what it said, or at the log of its machine"
        ) from error


def leave_group() -> None:
    """Let all processes of the group reach their end before any is gone, and close it.

    A process that finds its peer's connections closed while its own threads still hold theirs may abort at exit.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
