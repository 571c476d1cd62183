"""pi-ID: imitation distillation on the student's own trajectory (pi-Flow, arXiv 2510.14974, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .constants import ImitationConfig
from .draws import SegmentDraws, StartDraws, draw_segment, draw_segments, draw_start
from .policies.base import Policy
from .rollout import mean_velocities, rollout, rollout_through
from .tensors import per_sample, to_device
from .timegrid import to_sigma

StudentPolicy = Callable[[Tensor, Tensor], Policy]
"""States (B, C, *S) and raw times (B,) → the policy of one network evaluation; conditioning is bound."""

TeacherVelocity = Callable[[Tensor, Tensor], Tensor]
"""States and noise levels (B,) → velocities. A batch of n B rows holds n states of each sample, state-major."""

SampleLosses = Callable[[Tensor], None]
"""Is told the losses (B,) of the samples, whose mean is the loss; no gradients reach them."""

BeyondImitation = Callable[[Policy, "Segment"], Tensor]
"""The policy of a segment's one evaluation, and the segment → a loss (scalar) that is added to imitation's."""


@dataclass(frozen=True)
class Segment:
    """A state x (B, C, *S) at raw times raw (B,), and the raw lengths (B,) of the segments that start there."""

    x: Tensor
    raw: Tensor
    length: Tensor


@dataclass(frozen=True)
class Intervals:
    """Raw lengths (S, B) of a segment's pieces: student gaps, then teacher moves; window (B,) of the micro-window."""

    gaps: Tensor
    moves: Tensor
    window: Tensor


def teacher_ratio(iteration: int, mixing_iterations: int) -> float:
    """Share of the trajectory that the teacher walks: 1 - min(it, D) / D, 0 without mixing."""
    return 0.0 if mixing_iterations == 0 else 1 - min(iteration, mixing_iterations) / mixing_iterations


def cut_intervals(length: Tensor, config: ImitationConfig, ratio: float, draws: SegmentDraws) -> Intervals:
    """Cut segments of raw ``length`` (B,) into S student gaps and S teacher moves.

    Gaps are the differences of S sorted uniforms on (1 - ratio)(length - window), moves the S pieces of ratio (length -
    window) cut at S - 1 sorted uniforms.
    """
    substep = length / (length * config.substeps).round().clamp(min=1)
    window = torch.minimum(config.window * substep, length)
    free = length - window
    zero, one = torch.zeros_like(length).unsqueeze(0), torch.ones_like(length).unsqueeze(0)
    gaps = torch.cat([zero, draws.stops]).diff(dim=0) * (1 - ratio) * free
    moves = torch.cat([zero, draws.cuts, one]).diff(dim=0) * ratio * free
    return Intervals(gaps, moves, window)


def query_sigmas(
    raw: Tensor, length: Tensor, config: ImitationConfig, ratio: float, draws: SegmentDraws
) -> list[Tensor]:
    """Noise levels (n B,) of every query of one segment from raw times ``raw`` (B,), in the order they are asked in.

    They follow from the draws alone: before those go to a device, the host knows what the teacher will be asked.
    """
    intervals = cut_intervals(length, config, ratio, draws)
    if ratio == 0:
        queries = _visited_alone(raw, intervals).split(config.most_per_query)
    else:
        queries = _visited_with_teacher(raw, intervals).split(1)
    return [to_sigma(together.flatten(), config.grid.shift) for together in queries]


def _visited_alone(raw: Tensor, intervals: Intervals) -> Tensor:
    """Raw times (S, B) of the states that the policy alone visits."""
    return raw - intervals.gaps.cumsum(dim=0)


def _visited_with_teacher(raw: Tensor, intervals: Intervals) -> Tensor:
    """Raw times (S, B) of the states that policy gaps lead to where teacher moves come between them."""
    raws = []
    for gap, move in zip(intervals.gaps, intervals.moves):
        raws.append(raw - gap)
        raw = raws[-1] - move
    return torch.stack(raws)


def segment_loss(
    student: StudentPolicy,
    teacher: TeacherVelocity,
    segment: Segment,
    config: ImitationConfig,
    ratio: float = 0.0,
    draws: SegmentDraws | None = None,
    seen: SampleLosses | None = None,
    beyond: BeyondImitation | None = None,
) -> tuple[Tensor, Callable[[], Tensor]]:
    """Loss (scalar) of one segment, and a function that gives the state (B, C, *S) at the end of the segment.

    One student evaluation gives the policy; its detached copy, with dropout, walks; the teacher answers at S states;
    the policy's mean velocity over what follows each state is matched to the answer by half the mean square. ``draws``
    lie on the device of the segment; None draws them. ``seen`` is told what each sample has lost. ``beyond`` adds to
    the loss.
    """
    if draws is None:
        draws = to_device(draw_segment(segment.x.shape[0], config), segment.x.device)
    policy = student(segment.x, segment.raw)
    walker = policy.detach().without(draws.dropped)
    intervals = cut_intervals(segment.length, config, ratio, draws)
    walk = _walk_alone if ratio == 0 else _walk_with_teacher
    states, raws, answers, last, raw_last = walk(walker, teacher, segment, intervals, config)
    # A bound that the host knows: it sizes the kernels' tables without asking the device.
    longest = min(1.0, ratio * config.grid.segment + 2 * config.window / config.substeps)
    ends = raws - intervals.moves - intervals.window
    # All states at once: on a GPU this, and what follows, costs no more for many than for one.
    velocities = mean_velocities(policy, torch.stack(states), raws, ends, substeps=config.substeps, longest=longest)
    squares = (velocities - torch.stack(answers)).square()
    scale = config.loss_scale / 2 / config.states
    loss = (scale * squares.flatten(1).mean(dim=1)).sum()
    if seen is not None:
        seen(scale * squares.detach().flatten(2).mean(dim=2).sum(dim=0))
    if beyond is not None:
        loss = loss + beyond(policy, segment)
    return loss, lambda: rollout(walker, last, raw_last, segment.raw - segment.length, substeps=config.substeps)


@torch.no_grad()
def _walk_alone(
    walker: Policy, teacher: TeacherVelocity, segment: Segment, intervals: Intervals, config: ImitationConfig
):
    """States that the policy alone visits: none depends on an answer, so one query asks the teacher about many."""
    raws = _visited_alone(segment.raw, intervals)
    states = rollout_through(walker, segment.x, [segment.raw, *raws], substeps=config.substeps)
    answers: list[Tensor] = []
    for together in raws.split(config.most_per_query):
        chosen = states[len(answers) : len(answers) + len(together)]
        answers += teacher(torch.cat(chosen), to_sigma(together.flatten(), config.grid.shift)).chunk(len(chosen))
    return states, raws, answers, states[-1], raws[-1]


@torch.no_grad()
def _walk_with_teacher(
    walker: Policy, teacher: TeacherVelocity, segment: Segment, intervals: Intervals, config: ImitationConfig
):
    """Policy gaps and teacher moves in turn (scheduled trajectory mixing): each answer carries the state on."""
    shift = config.grid.shift
    states, answers, raws = [], [], _visited_with_teacher(segment.raw, intervals)
    x, before = segment.x, segment.raw
    for raw, move in zip(raws, intervals.moves):
        x = rollout(walker, x, before, raw, substeps=config.substeps)
        answer = teacher(x, to_sigma(raw, shift))
        states.append(x)
        answers.append(answer)
        x = x + answer * per_sample(to_sigma(raw - move, shift) - to_sigma(raw, shift), x)
        before = raw - move
    return states, raws, answers, x, before


def data_dependent_loss(
    student: StudentPolicy,
    teacher: TeacherVelocity,
    x_0: Tensor,
    config: ImitationConfig,
    ratio: float = 0.0,
    draws: tuple[StartDraws, SegmentDraws] | None = None,
    seen: SampleLosses | None = None,
    beyond: BeyondImitation | None = None,
) -> Tensor:
    """Loss (scalar) from noised data ``x_0`` (B, C, *S) at the sources of segments drawn uniformly in raw time.

    ``draws`` lie on the device of the data; None draws them. ``seen`` is told what each sample has lost. ``beyond``
    adds to the loss.
    """
    if draws is None:
        draws = to_device((draw_start(x_0.shape, config.grid), draw_segment(x_0.shape[0], config)), x_0.device)
    start, of_segment = draws
    sigma = per_sample(to_sigma(start.raw, config.grid.shift), x_0)
    segment = Segment((1 - sigma) * x_0 + sigma * start.noise.to(x_0), start.raw, start.length)
    loss, _ = segment_loss(student, teacher, segment, config, ratio, of_segment, seen, beyond)
    return loss


def data_free_losses(
    student: StudentPolicy,
    teacher: TeacherVelocity,
    noise: Tensor,
    config: ImitationConfig,
    ratio: float = 0.0,
    draws: Sequence[SegmentDraws] | None = None,
) -> Iterator[Tensor]:
    """Losses (scalars) of the nfe segments in order from ``noise`` (B, C, *S), each weighted by its raw length.

    Their sum is the loss of the step. The caller runs backward() on each before it asks for the next, so that one
    graph is alive at a time. ``draws``, one for each segment, lie on the device of the noise; None draws them.
    """
    x, batch = noise, noise.shape[0]
    if draws is None:
        draws = to_device(draw_segments(batch, config), noise.device)
    for (upper, lower), of_segment in zip(pairwise(config.grid.edges), draws, strict=True):
        raw = torch.full((batch,), upper, dtype=torch.float64, device=noise.device)
        segment = Segment(x, raw, torch.full_like(raw, upper - lower))
        loss, finish = segment_loss(student, teacher, segment, config, ratio, of_segment)
        yield loss * (upper - lower)
        if lower > 0:
            with torch.no_grad():
                x = finish()
            # Both hold the policy, which is as wide as the network's output, and the next segment brings its own.
            del loss, finish
