"""Several processes at one evaluation: each makes its share of the blocks, and the first measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch

from ..devices import choose_device
from ..ranks import launched_processes

# The others wait while one makes its last block or the first one measures: hours, for a teacher's many steps. NCCL would give up
# after ten minutes.
LONGEST = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """This process among those that torchrun or accelerate started. ``wait`` returns when all have come to it."""

    device: torch.device
    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    @property
    def first(self) -> bool:
        return self.rank == 0


def open_processes(device: str) -> Processes:
    """The process group that the environment tells of, or this process alone; raises UsageError for a device that is not there."""
    chosen = choose_device(device)
    if launched_processes() == 1:
        return Processes(chosen)
    from accelerate import PartialState

    state = PartialState(cpu=chosen.type == "cpu", timeout=LONGEST)
    return Processes(state.device, state.process_index, state.num_processes, state.wait_for_everyone)
