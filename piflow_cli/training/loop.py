"""The training loop: one pi-ID step after another, on whatever processes accelerate was launched with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..core.attention import without_cudnn_attention
from ..core.constants import ImitationConfig
from ..core.data_distance import distance_of_ends
from ..core.draws import draw_segment, draw_segments, draw_start
from ..core.ema import karras_decay, update_average
from ..core.guidance import Guidance
from ..core.imitation import (
    BeyondImitation,
    StudentPolicy,
    TeacherVelocity,
    data_dependent_loss,
    data_free_losses,
    teacher_ratio,
)
from ..core.policies.base import Policy
from ..core.tensors import to_device
from ..core.validation import values_unchecked
from ..data.batches import Batch, TrainingData, mixed_seed
from ..students.student import Student
from ..teachers.base import Conditioning, GuidedRows, Network, teacher_velocity
from ..teachers.class_conditional import CLASSES
from .asked import Queries, plan_queries
from .checkpoints import TrainingState
from .optimizer import Stretch, learning_rate
from .parallel import clip_shards
from .previews import Gallery
from .segments import SegmentLosses, membership
from .settings import BatchPlan
from .timing import StepClock

if TYPE_CHECKING:
    from ..presets.schema import Preset

LONGEST_STREAK = 10  # steps in a row whose gradients are not finite; the run stops there


@dataclass
class Session:
    """The objects of a training step.

    ``model``: the network of the student's forward pass, as accelerate prepared it. ``gallery``: the start of pictures,
    None where nothing shows them. ``sharded``: whether processes share the weights out. ``streak``: the number of steps
    that were skipped in a row until now. ``stretches``: of the schedule of a run under a budget. ``clock``: of the step
    in flight. ``asked``: how often this process has asked the teacher in it. ``evaluations``: of networks, as last
    reported. ``on_round``: is told after each round of accumulation how many of how many are done.
    """

    preset: Preset
    accelerator: Accelerator
    batches: BatchPlan
    config: ImitationConfig
    guidance: Guidance
    data: TrainingData
    teacher: Network
    student: Student
    model: nn.Module
    average: Student
    optimizer: torch.optim.Optimizer
    gallery: Gallery | None
    sharded: bool = False
    iteration: int = 0
    streak: int = 0
    pending: list[dict] = field(default_factory=list)
    stretches: tuple[Stretch, ...] = ()
    clock: StepClock = field(init=False)
    asked: int = 0
    evaluations: int = 0
    on_round: Callable[[int, int], object] = lambda done, rounds: None

    @property
    def state(self) -> TrainingState:
        """The part of the session that a checkpoint holds."""
        return TrainingState(self.student.model, self.average.model, self.optimizer, self.iteration)


def train_step(session: Session) -> None:
    """One iteration: gradients over all rounds of accumulation, one optimiser step, one update of the average.

    A step whose loss or gradients are not finite leaves the weights as they are (as published); it counts in
    ``session.streak``. All processes skip the same steps: they have exchanged gradients, and the loss too. Losses,
    gradient norm and times stay on the device, in ``session.pending``.
    """
    settings, iteration = session.preset.optimisation, session.iteration
    clock = session.clock = StepClock(session.accelerator.device)
    clock.enter("data")
    session.asked = 0
    for group in session.optimizer.param_groups:
        group["lr"] = group["share"] * learning_rate(iteration, settings, session.stretches)
    segments = SegmentLosses(session.config.grid)
    with values_unchecked():
        rounds = []
        for round_ in range(session.batches.accumulation):
            rounds.append(_backward(session, round_, segments))
            session.on_round(round_ + 1, session.batches.accumulation)
    clock.enter("optimizer")
    losses = session.accelerator.reduce(segments.beside(reduce(torch.add, rounds)), reduction="mean")
    norm = _clip(session, settings.gradient_clip if iteration >= settings.warmup else None)
    # The one wait for the device in a step: whether it takes place cannot be left to the optimiser, 8-bit ones know no
    # skipping.
    finite = bool(torch.isfinite(losses[0]) & torch.isfinite(norm))
    session.streak = 0 if finite else session.streak + 1
    if finite:
        session.optimizer.step()
    # Several processes exchange gradients in place, and would make them anew beside what they exchange.
    session.optimizer.zero_grad(set_to_none=session.sharded or session.accelerator.num_processes == 1)
    decay = karras_decay(max(0, iteration - settings.warmup), settings.ema_gamma)
    update_average(session.average.model.parameters(), session.student.model.parameters(), decay)
    session.iteration += 1
    clock.stop()
    row = {"iteration": session.iteration, "losses": losses, "gradient_norm": norm, "skipped": not finite}
    session.pending.append({**row, "asked": session.asked, "clock": clock})


def _clip(session: Session, largest: float | None) -> Tensor:
    """Norm of the gradients, which are scaled down to ``largest`` where that is given."""
    parameters = list(session.student.model.parameters())
    if session.sharded:
        return clip_shards(parameters, largest)
    known = session.accelerator.device.type == "cpu"
    if largest is None or known:
        norm = nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])
        # A GPU would have to be waited for to learn that nothing is to be scaled.
        if largest is None or norm <= largest:
            return norm
    return session.accelerator.clip_grad_norm_(parameters, largest)


def _backward(session: Session, round_: int, segments: SegmentLosses) -> Tensor:
    """Gradients of one round of accumulation; returns its share of the loss, detached."""
    accelerator, batches = session.accelerator, session.batches
    seed = mixed_seed(session.preset.seed, session.iteration, _place(session, round_))
    # LoRA dropout and the like draw from the global generator.
    torch.manual_seed(seed)
    session.clock.enter("data")
    losses = _losses(session, round_, torch.Generator().manual_seed(seed), segments)
    count = session.config.grid.nfe if session.preset.data_free else 1
    total = torch.zeros((), device=accelerator.device)
    for index in range(count):
        last = round_ == batches.accumulation - 1 and index == count - 1
        # Whole gradients are exchanged once a step, at its last backward pass; parts are summed up where they belong.
        with contextlib.nullcontext() if last or session.sharded else accelerator.no_sync(session.model):
            loss = next(losses) / batches.accumulation
            session.clock.enter("backward")
            with without_cudnn_attention():
                accelerator.backward(loss)
            session.clock.enter("policy")
        total = total + loss.detach()
        if session.preset.data_free:
            segments.add_segment(index, loss.detach())
        del loss  # and with it the policy of the segment, before the next one comes
    return total


def _losses(session: Session, round_: int, generator: torch.Generator, segments: SegmentLosses) -> Iterator[Tensor]:
    """The losses of one round; all that it needs is drawn on the host and goes to the device in one copy."""
    batch, config = _batch(session, round_), session.config
    count, told = batch.shape[0], batch.conditioning
    device, on_host = session.accelerator.device, session.student.family.read_on_host
    ratio = teacher_ratio(session.iteration, session.preset.imitation.mixing_iterations)
    if session.preset.data_free:
        noise, drawn = torch.randn(batch.shape, generator=generator), draw_segments(count, config, generator)
        noise = session.student.family.parameterisation.first_state(noise)
        queries = plan_queries(config, session.guidance, ratio, drawn, sharded=session.sharded)
        noise, drawn, rows, told = to_device((noise, drawn, queries.rows, told), device, on_host)
        session.clock.enter("policy")
        yield from data_free_losses(*_players(session, told, queries, rows), noise, config, ratio, drawn)
    else:
        assert batch.x_0 is not None, "data-dependent training has data"
        drawn = draw_start(batch.shape, config.grid, generator), draw_segment(count, config, generator)
        members = membership(drawn[0].raw, config.grid)
        # Drawn last: a run without it draws what it always drew.
        other = torch.randn(batch.shape, generator=generator) if config.compares_data else None
        queries = plan_queries(config, session.guidance, ratio, drawn[1:], drawn[0], sharded=session.sharded)
        needed = (batch.x_0, drawn, members, queries.rows, told, other)
        x_0, drawn, members, rows, told, other = to_device(needed, device, on_host)
        session.clock.enter("policy")

        def seen(losses: Tensor) -> None:
            segments.add_samples(losses, members, session.batches.accumulation)

        beyond = None if other is None else _distance(config, x_0, other, members, told)
        players = _players(session, told, queries, rows)
        yield data_dependent_loss(*players, x_0, config, ratio, drawn, seen, beyond)


def _distance(
    config: ImitationConfig, data: Tensor, noise: Tensor, members: Tensor, told: Conditioning
) -> BeyondImitation:
    """The weighted distances to data, of all samples of a round together.

    To the energy distance the segment belongs to what is compared, and the class where classes are told.
    """
    marks = members.to(torch.int64).argmax(dim=0)
    if (classes := told.get(CLASSES)) is not None:
        marks = marks + len(members) * classes
    return lambda policy, segment: distance_of_ends(policy, segment, data, noise, marks, config)


def _players(
    session: Session, conditioning: Conditioning, queries: Queries, rows: Sequence[Tensor]
) -> tuple[StudentPolicy, TeacherVelocity]:
    """Student and teacher, told ``conditioning``, by the clock of the step.

    ``rows``: those of the ``queries``, on the device.
    """
    session.asked += queries.evaluations
    family, clock, guided = session.student.family, session.clock, map(GuidedRows, queries.rows, rows)
    count = len(next(iter(conditioning.values())))
    # One batch holds both halves where a query may be as large; alike on all processes that share the weights out.
    most = 0 if session.sharded else count * session.config.most_per_query

    def student(x: Tensor, raw: Tensor) -> Policy:
        with clock.during("student"), without_cudnn_attention():
            return session.student.policy(session.model, x, raw, conditioning)

    def teacher(x: Tensor, sigma: Tensor) -> Tensor:
        with clock.during("teacher"), session.accelerator.autocast():
            return teacher_velocity(
                family, session.teacher, session.guidance, x, sigma, conditioning, next(guided), most
            )

    return student, teacher


def _place(session: Session, round_: int) -> int:
    """Number of a round of this process among those of all processes in one step.

    Samples and noise depend on it alone: with the same device batch, a step on several processes is that on one, but
    for rounding.
    """
    return round_ * session.batches.processes + session.accelerator.process_index


def _batch(session: Session, round_: int) -> Batch:
    """The samples of one round on this process."""
    batches = session.batches
    place = session.iteration * batches.accumulation * batches.processes + _place(session, round_)
    return session.data.batch(session.preset.seed, place, batches.device_batch)
