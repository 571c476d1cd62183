"""A segment of training on torch's meta device: what it would hold on a GPU, without a weight in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ...core.constants import ImitationConfig
from ...core.guidance import Guidance
from ...core.policies.base import Policy
from ...core.tensors import working
from ...students.shared_base import root
from ...students.student import Student
from ...teachers.base import Conditioning, GuidedRows, Network, repeat, teacher_velocity
from .live import Autocast, Live, meta_autocast
from .memory import SegmentMemory


@dataclass(frozen=True)
class Cast:
    """Who takes part in a step: a student and its teacher on the meta device.

    ``shape``: (B, C, *S) of the states of a round. ``conditioning``: of one sample. ``dtype``: of the arithmetic.
    ``packed``: identities of weights that are kept in fewer bits, and widened for each use.
    """

    student: Student
    teacher: Network
    guidance: Guidance
    config: ImitationConfig
    mixes: bool
    shape: tuple[int, ...]
    conditioning: Conditioning
    dtype: torch.dtype
    packed: Collection[int]

    @property
    def scratch(self) -> int:
        """States in the workspace of a backward pass through one rollout, as fused kernels set it aside."""
        config = self.config
        mixed = config.grid.segment if self.mixes else 0.0
        return ceil(config.substeps * min(1.0, mixed + 2 * config.window / config.substeps)) + 1


def rehearse(cast: Cast, *, checkpointing: bool) -> SegmentMemory:
    """Play one segment of a step: the student's forward pass, a query of the teacher, the loss, the way back."""
    with _checkpointing(cast, checkpointing), torch.device("meta"), meta_autocast():
        live, autocast = Live(_standing(cast)), Autocast(cast.dtype, cast.packed)
        with live, autocast:
            x, told = torch.empty(cast.shape), repeat(cast.conditioning, cast.shape[0])
            reached: list[int] = []
            with live.peak() as forward:
                policy = _policy(cast, x, told, lambda: reached.append(live.highest))
                autocast.forget()
            graph = live.now
            states = list(torch.empty(cast.config.states, *cast.shape).unbind(0))
            with live.peak() as query:
                before = live.now
                answers = _answers(cast, states, told)
                autocast.forget()
            loss = _loss(cast, policy, states, answers)
            del policy, answers
            with live.peak() as backward:
                torch.autograd.backward(loss)
    return SegmentMemory(graph, query[0] - before, max(reached) - graph, forward[0], query[0], backward[0])


def graph_of(cast: Cast, *, checkpointing: bool) -> int:
    """Bytes that the student's forward pass leaves for its backward pass."""
    with _checkpointing(cast, checkpointing), torch.device("meta"), meta_autocast():
        live, autocast = Live(_standing(cast)), Autocast(cast.dtype, cast.packed)
        with live, autocast:
            x, told = torch.empty(cast.shape), repeat(cast.conditioning, cast.shape[0])
            policy = _policy(cast, x, told, lambda: None)
            autocast.forget()
            held = live.now
    del policy
    return held


@contextmanager
def _checkpointing(cast: Cast, on: bool) -> Generator[None]:
    """The student with or without checkpointing, and with gradients of earlier rounds, to which new ones are added."""

    @contextmanager
    def again() -> Generator[None]:
        # A backward pass leaves all modes; what it computes again enters them again, as it does autocast on a GPU.
        with torch.device("meta"), Autocast(cast.dtype, cast.packed):
            yield

    def checkpointed(block: nn.Module, *given: Any) -> Any:
        return checkpoint(block, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))

    model = root(cast.student.model)
    if on:
        model.enable_gradient_checkpointing(checkpointed)
    for value in cast.student.model.parameters():
        value.grad = torch.empty_like(value)
    try:
        yield
    finally:
        for value in cast.student.model.parameters():
            value.grad = None
        if on:
            model.disable_gradient_checkpointing()


def _standing(cast: Cast) -> list[Tensor]:
    """Weights, tables and gradients, which are counted elsewhere."""
    model = root(cast.student.model)
    weights = [*model.parameters(), *model.buffers(), *root(cast.teacher).parameters(), *root(cast.teacher).buffers()]
    return [*weights, *(value.grad for value in weights if value.grad is not None)]


def _policy(cast: Cast, x: Tensor, told: Conditioning, reached: Callable[[], object]) -> Policy:
    """The policy of the student, whose network answers in float32; ``reached`` is called when gradients get to it."""
    model = convert_outputs_to_fp32(cast.student.model)

    def network(*given: Any, **named: Any) -> Any:
        output = model(*given, **named)
        for value in tree_leaves(output):
            value.register_hook(lambda grad: reached())
        return output

    return cast.student.policy(network, x, torch.ones(cast.shape[0], dtype=torch.float64), told)


def _answers(cast: Cast, states: list[Tensor], told: Conditioning) -> list[Tensor]:
    """The teacher's velocities at the states, asked about as many at once as in training."""
    per_query, answers = cast.config.states_per_query or len(states), []
    for start in range(0, len(states), per_query):
        chosen = states[start : start + per_query]
        count = len(chosen) * cast.shape[0]
        x, sigma = torch.cat(chosen), torch.ones(count, dtype=torch.float64)
        # Guidance may act on all of them at once.
        rows = torch.arange(0 if cast.guidance.scale == 1 else count, device="cpu")
        guided = GuidedRows(rows, rows.to("meta"))
        family = cast.student.family
        answers += teacher_velocity(family, cast.teacher, cast.guidance, x, sigma, told, guided).chunk(len(chosen))
    return answers


def _loss(cast: Cast, policy: Policy, states: list[Tensor], answers: list[Tensor]) -> Tensor:
    outputs, loss = [getattr(policy, name) for name in policy.outputs], torch.zeros(())
    for state, answer in zip(states, answers, strict=True):
        loss = loss + (_Followed.apply(state, cast.scratch, *outputs) - answer).square().mean()
    return loss


class _Followed(torch.autograd.Function):
    """The mean velocity of a policy at a state, as fused kernels find it: they keep what they are given."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, scratch: int, *outputs: Tensor) -> Tensor:
        ctx.save_for_backward(state, *outputs)
        ctx.scratch = scratch
        return torch.empty_like(working(state))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        state, *outputs = ctx.saved_tensors
        # Held until the end, as the path of the walk is.
        _path = state.new_empty(ctx.scratch, *state.shape)
        return None, None, *(torch.empty_like(value) for value in outputs)
