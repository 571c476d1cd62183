"""Ideas 3, 4 and 11: other walks to the states, other paths of the gradients, and answers that are used twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from piflow_cli.core import imitation
from piflow_cli.core.draws import draw_dropped, draw_segments
from piflow_cli.core.imitation import Segment
from piflow_cli.core.policies.components import ComponentPolicy
from piflow_cli.core.rollout import rollout, rollout_through
from piflow_cli.core.tensors import per_sample
from piflow_cli.core.timegrid import to_sigma
from piflow_cli.training import loop

from .pieces import Walk, wrap


def rollouts(count: int, strength: float = 0.0) -> None:
    """Reach the states by ``count`` walks in turn, each with components dropped anew.

    All but the first begin with so much other noise in place of their own: ``strength`` of its square is left out. It
    is for paths that begin at pure noise.
    """

    def around(_: Walk) -> Walk:
        @torch.no_grad()
        def walked(walker, teacher, segment, intervals, config):
            raws = imitation._visited_alone(segment.raw, intervals)
            states: list[Tensor] = list(raws)
            for number in range(count):
                own, x = walker, segment.x
                if number > 0:
                    own = walker.without(draw_dropped(len(x), config.components, config.dropout).to(x.device))
                    x = (1 - strength**2) ** 0.5 * x + strength * torch.randn_like(x)
                legs = [segment.raw, *raws[number::count]]
                states[number::count] = rollout_through(own, x, legs, substeps=config.substeps)
            answers = teacher(torch.cat(states), to_sigma(raws.flatten(), config.grid.shift)).chunk(len(states))
            return states, raws, answers, states[-1], raws[-1]

        return walked

    wrap(imitation, "_walk_alone", around)


def through() -> None:
    """Let gradients pass through the visited states too, to the policy that led to them; answers stay as given."""
    dropped: list[Tensor | None] = []

    def remembering(walk: Walk) -> Walk:
        def walked(walker: ComponentPolicy, *others):
            dropped[:] = [walker.dropped]
            return walk(walker, *others)

        return walked

    def around(mean_velocities: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def from_own_states(policy, x, raws, ends, *, substeps: int, **options: Any) -> Tensor:
            walker = policy.without(dropped.pop())
            states = torch.stack(rollout_through(walker, policy.x_src, [policy.raw_src, *raws], substeps=substeps))
            return mean_velocities(policy, states, raws, ends, substeps=substeps, **options)

        return from_own_states

    wrap(imitation, "_walk_alone", remembering)
    wrap(imitation, "mean_velocities", around)


def over_segments() -> None:
    """Let gradients pass from each segment of a trajectory to those before it, through the states where they meet.

    It is for trajectories from noise. All segments are computed before the first backward pass, which is that of all.
    """

    def whole(student, teacher, noise, config, ratio=0.0, draws=None) -> Iterator[Tensor]:
        x, losses = noise, []
        if draws is None:
            draws = draw_segments(len(noise), config)
        for (upper, lower), of_segment in zip(pairwise(config.grid.edges), draws, strict=True):
            raw = torch.full((len(x),), upper, dtype=torch.float64, device=x.device)
            policy = student(x, raw)
            segment = Segment(x, raw, torch.full_like(raw, upper - lower))
            loss, _ = imitation.segment_loss(lambda *_, own=policy: own, teacher, segment, config, ratio, of_segment)
            losses.append(loss * (upper - lower))
            x = rollout(policy, x, raw, torch.full_like(raw, lower), substeps=config.substeps)
        total = torch.stack(losses).sum()
        # The loop walks back from what each segment has lost: the first brings all gradients, the others none.
        yield losses[0].detach() + total - total.detach()
        for loss in losses[1:]:
            yield loss.detach().requires_grad_()

    wrap(loop, "data_free_losses", lambda _: whole)


def ends() -> None:
    """Match where the policy ends to where as many Euler steps of the teacher lead as there are states, and only that.

    The teacher is asked for one state after another, so that states_per_query must be 1.
    """

    def segment_loss(student, teacher, segment, config, ratio=0.0, draws=None, seen=None, beyond=None):
        policy, shift = student(segment.x, segment.raw), config.grid.shift
        raws = [segment.raw - segment.length * (step / config.states) for step in range(config.states + 1)]
        x = segment.x
        with torch.no_grad():
            for raw, lower in pairwise(raws):
                x = x + teacher(x, to_sigma(raw, shift)) * per_sample(to_sigma(lower, shift) - to_sigma(raw, shift), x)
        end = rollout(policy, segment.x, segment.raw, raws[-1], substeps=config.substeps)
        losses = config.loss_scale / 2 * (end - x).square().flatten(1).mean(dim=1)
        if seen is not None:
            seen(losses.detach())
        return losses.mean(), end.detach

    wrap(imitation, "segment_loss", lambda _: segment_loss)


def neighbours(substeps: int) -> None:
    """Use each answer twice: where it was asked for, and at the state of the walk so many ``substeps`` further on.

    It is for one state, which the teacher is asked for; two are matched.
    """

    def around(walk: Walk) -> Walk:
        @torch.no_grad()
        def walked(walker, teacher, segment, intervals, config):
            states, raws, answers, *last = walk(walker, teacher, segment, intervals, config)
            lowest = segment.raw - segment.length + intervals.window
            near = torch.maximum(raws - substeps / config.substeps, lowest)
            more = [rollout(walker, *way, substeps=config.substeps) for way in zip(states, raws, near)]
            return [*states, *more], torch.cat([raws, near]), [*answers, *answers], *last

        return walked

    def halved(segment_loss: Callable[..., Any]) -> Callable[..., Any]:
        def loss(student, teacher, segment, config, *others):
            return segment_loss(student, teacher, segment, replace(config, loss_scale=config.loss_scale / 2), *others)

        return loss

    wrap(imitation, "_walk_alone", around)
    wrap(imitation, "segment_loss", halved)
