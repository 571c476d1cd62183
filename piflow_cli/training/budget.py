"""From a budget of time to the length, batch and warm-up of a run: arithmetic on measured times, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..presets.bounds import ITERATIONS
from .optimizer import Stretch, progress_at

if TYPE_CHECKING:
    from ..presets.schema import OptimisationSection, Preset

# A smaller batch is worth more steps up to five warm-ups of them: 100 for digits, 500 for FLUX.1. At 50 steps of digits
# half a batch was better; at 183 it was not (288 of 64 in the same time: 0.202 in place of 0.191, one seed).
ENOUGH = 5
# A smaller batch gives so many times the iterations, or is no gain: a step costs more than its samples.
GAIN = 1.5
# No batch is smaller than this part of the preset's. On digits half a batch and twice the steps came to 0.255 in place
# of 0.290, a quarter and four times the steps to 0.267 (one seed, 6,400 samples each): nothing smaller was measured.
SMALLEST = 4
TOLERANCE = 0.03  # of the budget: a run whose end is expected further off changes its length
MARGIN = 1.1  # of the least budget that is named


class TooSmall(Exception):
    """A budget without room for one warm-up; ``seconds`` of training would have it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True)
class Plan:
    """The numbers of a run under a budget. ``seconds``: of an iteration.

    ``device_batch_size``: None where the preset leaves it to the number of processes, which may change.
    """

    iterations: int
    warmup: int
    batch_size: int
    device_batch_size: int | None
    seconds: float

    def applied(self, preset: Preset) -> Preset:
        """``preset`` with these numbers, a cosine schedule, and trajectory mixing over the same part of the run."""
        asked, imitation = preset.optimisation, preset.imitation
        part = min(1.0, self.iterations / asked.iterations)
        optimisation = replace(
            asked,
            iterations=self.iterations,
            warmup=self.warmup,
            batch_size=self.batch_size,
            device_batch_size=self.device_batch_size,
            schedule="cosine",
        )
        mixing = round(part * imitation.mixing_iterations)
        return replace(preset, optimisation=optimisation, imitation=replace(imitation, mixing_iterations=mixing))


def choose_plan(
    left: Callable[[], float],
    settings: OptimisationSection,
    processes: int,
    round_seconds: Callable[[int], float],
    least_device_batch: int = 1,
) -> Plan:
    """The plan of a run that may train for the seconds that are ``left``, once all is measured.

    The batch is that of ``settings``, or its half or quarter: the largest that gives ENOUGH warm-ups of iterations, or
    the smallest whose steps are quicker by GAIN. The rate stays: with half a batch on digits that was no worse than
    the square-root rule (0.255 and 0.258, one seed). The warm-up is that of ``settings``, or a tenth of a shorter run.

    Args:
        left: seconds; to measure another batch takes some.
        settings: as the preset has them.
        processes: their number; a batch is cut evenly among them.
        round_seconds: seconds of a round of accumulation at a device batch, optimiser and all.
        least_device_batch: the fewest samples that a device may have at once.

    Raises:
        TooSmall: not even the smallest batch leaves room for one warm-up.
    """
    least = max(1, settings.warmup)
    chosen = None
    for batch, device in _batches(settings, processes, least_device_batch):
        seconds = round_seconds(device) * (batch // processes) / device
        if chosen is None or GAIN * seconds <= chosen[-1]:
            chosen = batch, device, seconds
            if left() >= ENOUGH * least * seconds:
                break
    assert chosen is not None, "a preset has a batch"
    batch, device, seconds = chosen
    iterations = min(math.floor(max(0.0, left()) / seconds), int(ITERATIONS.most))
    if iterations < least:
        raise TooSmall(MARGIN * seconds * least)
    held = None if settings.device_batch_size is None else device
    return Plan(iterations, min(settings.warmup, max(1, iterations // 10)), batch, held, seconds)


def _batches(settings: OptimisationSection, processes: int, least: int) -> Iterator[tuple[int, int]]:
    """A batch and its halves, each with its device batch, down to the SMALLEST part.

    They go on as long as ``processes`` can share them, and each has ``least`` samples at once.
    """
    batch, wanted = settings.batch_size, settings.device_batch_size
    while batch >= max(settings.batch_size / SMALLEST, processes):
        share = batch // processes
        device = share if wanted is None else math.gcd(share, wanted)
        if device < least:
            return
        yield batch, device
        if batch % (2 * processes):
            return
        batch //= 2


def new_length(iteration: int, length: int, left: float, seconds: float, budget: float) -> int | None:
    """The number of iterations that ``left`` seconds have room for; None where ``length`` ends near enough to it.

    ``iteration`` are done, each of the others takes ``seconds``. Near enough is TOLERANCE of ``budget``.
    """
    off = (length - iteration) * seconds - left
    if abs(off) <= TOLERANCE * budget:
        return None
    found = min(iteration + max(1, math.floor(left / seconds)), int(ITERATIONS.most))
    return None if found == length else found


def stretched(stretches: Sequence[Stretch], iteration: int, length: int) -> tuple[Stretch, ...]:
    """The schedule of a run that has come to ``iteration`` and shall end at ``length``: the rate goes on from here."""
    kept = [stretch for stretch in stretches if stretch.start < iteration]
    if not kept:
        return (Stretch(stretches[0].start, 0.0, max(length, stretches[0].start + 1)),)
    return (*kept, Stretch(iteration, progress_at(iteration, kept), length))
