"""The training loop: one pi-ID step after another, on whatever processes accelerate was launched with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..core.attention import without_cudnn_attention
from ..core.constants import ImitationConfig
from ..core.draws import draw_segment, draw_segments, draw_start
from ..core.ema import karras_decay, update_average
from ..core.guidance import Guidance
from ..core.imitation import (
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
from .asked import Queries, count_evaluations, plan_queries
from .checkpoints import TrainingState
from .optimizer import Stretch, learning_rate
from .parallel import clip_shards
from .previews import Gallery
from .settings import BatchPlan, student_evaluations

if TYPE_CHECKING:
    from ..presets.schema import Preset

LONGEST_STREAK = 10  # steps in a row whose gradients are not finite; the run stops there


@dataclass
class Session:
    """The objects of a training step.

    ``model``: the network of the student's forward pass, as accelerate prepared it. ``gallery``: the start of pictures,
    None where nothing shows them. ``sharded``: whether processes share the weights out. ``streak``: the number of steps
    that were skipped in a row until now. ``stretches``: of the schedule of a run under a budget. ``asked``: how often
    this process has asked the teacher in the step at hand. ``evaluations``: of networks, as last reported.
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
    asked: int = 0
    evaluations: int = 0

    @property
    def state(self) -> TrainingState:
        """The part of the session that a checkpoint holds."""
        return TrainingState(self.student.model, self.average.model, self.optimizer, self.iteration)


def train_step(session: Session) -> None:
    """One iteration: gradients over all rounds of accumulation, one optimiser step, one update of the average.

    A step whose loss or gradients are not finite leaves the weights as they are (as published); it counts in
    ``session.streak``. All processes skip the same steps: they have exchanged gradients, and the loss too. Loss and
    gradient norm stay on the device, in ``session.pending``.
    """
    settings, iteration = session.preset.optimisation, session.iteration
    session.asked = 0
    for group in session.optimizer.param_groups:
        group["lr"] = group["share"] * learning_rate(iteration, settings, session.stretches)
    with values_unchecked():
        loss = sum(_backward(session, round_) for round_ in range(session.batches.accumulation))
    loss = session.accelerator.reduce(loss, reduction="mean")
    norm = _clip(session, settings.gradient_clip if iteration >= settings.warmup else None)
    # The one wait for the device in a step: whether it takes place cannot be left to the optimiser, 8-bit ones know no
    # skipping.
    finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
    session.streak = 0 if finite else session.streak + 1
    if finite:
        session.optimizer.step()
    # Several processes exchange gradients in place, and would make them anew beside what they exchange.
    session.optimizer.zero_grad(set_to_none=session.sharded or session.accelerator.num_processes == 1)
    decay = karras_decay(max(0, iteration - settings.warmup), settings.ema_gamma)
    update_average(session.average.model.parameters(), session.student.model.parameters(), decay)
    session.iteration += 1
    row = {"iteration": session.iteration, "loss": loss, "gradient_norm": norm, "skipped": not finite}
    session.pending.append({**row, "asked": session.asked})


def take_pending(session: Session) -> list[dict]:
    """Rows for metrics.jsonl of the iterations since the last call: one wait for the device in all."""
    pending, session.pending = session.pending, []
    if not pending:
        return []
    losses = torch.stack([row["loss"] for row in pending]).tolist()
    norms = torch.stack([torch.as_tensor(row["gradient_norm"]) for row in pending]).tolist()
    imitation, settings = session.preset.imitation, session.preset.optimisation
    asked, student = [row["asked"] for row in pending], student_evaluations(session.preset)
    counts = count_evaluations(session.accelerator, session.evaluations, student, asked)
    session.evaluations = counts[-1]
    return [
        {
            "iteration": row["iteration"],
            "loss": loss,
            "gradient_norm": norm,
            "teacher_ratio": teacher_ratio(row["iteration"] - 1, imitation.mixing_iterations),
            "learning_rate": learning_rate(row["iteration"] - 1, settings, session.stretches),
            "evaluations": count,
            "skipped": row["skipped"],
        }
        for row, loss, norm, count in zip(pending, losses, norms, counts)
    ]


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


def _backward(session: Session, round_: int) -> Tensor:
    """Gradients of one round of accumulation; returns its share of the loss, detached."""
    accelerator, batches = session.accelerator, session.batches
    seed = mixed_seed(session.preset.seed, session.iteration, _place(session, round_))
    # LoRA dropout and the like draw from the global generator.
    torch.manual_seed(seed)
    losses = _losses(session, round_, torch.Generator().manual_seed(seed))
    count = session.config.grid.nfe if session.preset.data_free else 1
    total = torch.zeros((), device=accelerator.device)
    for index in range(count):
        last = round_ == batches.accumulation - 1 and index == count - 1
        # Whole gradients are exchanged once a step, at its last backward pass; parts are summed up where they belong.
        with contextlib.nullcontext() if last or session.sharded else accelerator.no_sync(session.model):
            loss = next(losses) / batches.accumulation
            with without_cudnn_attention():
                accelerator.backward(loss)
        total = total + loss.detach()
        del loss  # and with it the policy of the segment, before the next one comes
    return total


def _losses(session: Session, round_: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The losses of one round; all that it needs is drawn on the host and goes to the device in one copy."""
    batch, config = _batch(session, round_), session.config
    count, told = batch.shape[0], batch.conditioning
    device, on_host = session.accelerator.device, session.student.family.read_on_host
    ratio = teacher_ratio(session.iteration, session.preset.imitation.mixing_iterations)
    if session.preset.data_free:
        noise, segments = torch.randn(batch.shape, generator=generator), draw_segments(count, config, generator)
        queries = plan_queries(config, session.guidance, ratio, segments, sharded=session.sharded)
        noise, segments, rows, told = to_device((noise, segments, queries.rows, told), device, on_host)
        players = _players(session, told, queries, rows)
        yield from data_free_losses(*players, noise, config, ratio, segments)
    else:
        assert batch.x_0 is not None, "data-dependent training has data"
        drawn = draw_start(batch.shape, config.grid, generator), draw_segment(count, config, generator)
        queries = plan_queries(config, session.guidance, ratio, drawn[1:], drawn[0], sharded=session.sharded)
        x_0, drawn, rows, told = to_device((batch.x_0, drawn, queries.rows, told), device, on_host)
        yield data_dependent_loss(*_players(session, told, queries, rows), x_0, config, ratio, drawn)


def _players(
    session: Session, conditioning: Conditioning, queries: Queries, rows: Sequence[Tensor]
) -> tuple[StudentPolicy, TeacherVelocity]:
    """Student and teacher, told ``conditioning``; ``rows`` are those of the ``queries``, on the device."""
    session.asked += queries.evaluations
    family, guided = session.student.family, map(GuidedRows, queries.rows, rows)
    count = len(next(iter(conditioning.values())))
    # One batch holds both halves where a query may be as large; alike on all processes that share the weights out.
    most = 0 if session.sharded else count * session.config.most_per_query

    def student(x: Tensor, raw: Tensor) -> Policy:
        with without_cudnn_attention():
            return session.student.policy(session.model, x, raw, conditioning)

    def teacher(x: Tensor, sigma: Tensor) -> Tensor:
        with session.accelerator.autocast():
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
