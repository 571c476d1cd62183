"""Launches of what is around the networks: of a rollout while sampling, and of the windows of training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from cases import CONVERTED, MOST_LAUNCHES
from torch import Tensor

from piflow_cli.core import imitation
from piflow_cli.core.decoding import PolicyDecoder
from piflow_cli.core.draws import draw_segment
from piflow_cli.core.imitation import Segment, segment_loss
from piflow_cli.core.policies.kinds import policy_class
from piflow_cli.core.tensors import to_device
from piflow_cli.students.scheduler import PolicyScheduler

CALLS = "calls of torch"
PATCH, TOKENS = 4, 16  # positions per token of a pipeline's latents; tokens


@dataclass
class Seen:
    """Launches by the name of what made them, as ``count`` gives all until now; among them all calls of torch.

    ``most``: the most of a ``rollout``, from what a network gave to the next state, of a ``packed rollout``, which a
    pipeline asks for, of ``stochastic`` ones, which draw noise at their end, of the ``windows`` of a segment with their
    backward, and of a ``segment``. ``output``: what the network gave last to be read as a policy of this ``kind``, and
    ``flow``, whether that was of velocities.
    """

    count: Callable[[], Counter[str]]
    kind: str = ""
    flow: bool = True
    most: dict[str, Counter[str]] = field(default_factory=dict)
    output: Tensor | None = None

    def note(self, name: str, launches: Counter[str]) -> None:
        """Keep ``launches`` where they are the most."""
        self.most[name] = max(launches, self.most.get(name, Counter()), key=total)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look at the samplers and decoders of the package while it is open."""
        step, policy = PolicyScheduler.step, PolicyDecoder.policy

        def counted(scheduler: PolicyScheduler, *given: Any, **named: Any) -> Any:
            before = self.count()
            out = step(scheduler, *given, **named)
            packed = "" if scheduler.decoder.patch is None else "packed "
            self.note(f"{packed}{'stochastic ' if scheduler.config.stochastic else ''}rollout", self.count() - before)
            return out

        def seen(decoder: PolicyDecoder, output: Tensor, *given: Any) -> Any:
            self.output, self.kind, self.flow = output, decoder.kind, decoder.parameterisation.flow
            return policy(decoder, output, *given)

        with mock.patch.object(PolicyScheduler, "step", counted), mock.patch.object(PolicyDecoder, "policy", seen):
            yield


def of_pipeline(session: Any) -> None:
    """One step of a sampling by a pipeline that packs positions of bfloat16 latents by four."""
    _step(session, session.student.scheduler(patch=PATCH), torch.bfloat16)


def of_stochastic(session: Any) -> None:
    """One step that re-noises fully, of a state and of a pipeline's packed latents; seeds draw on the host."""
    generators = [torch.Generator().manual_seed(0)]
    _step(session, session.student.scheduler(stochastic=math.inf), torch.float32, generators)
    _step(session, session.student.scheduler(patch=PATCH, stochastic=math.inf), torch.bfloat16, generators)


def _step(session: Any, scheduler: PolicyScheduler, dtype: torch.dtype, generators: Any = None) -> None:
    channels, *sides = session.data.shape
    parts, patch = policy_class(scheduler.decoder.kind).layout(scheduler.decoder.components, channels), PATCH
    if scheduler.decoder.patch is None:
        latents = (1, channels, *sides)
        shape = (1, sum(1 if part is None else part[0] * part[1] for part in parts), *sides)
    else:
        latents = (1, TOKENS, channels * patch)
        shape = (1, TOKENS, sum(1 if part is None else part[0] * part[1] * patch for part in parts))
    output, sample = (torch.empty(size, dtype=dtype, device="cuda") for size in (shape, latents))
    scheduler.set_timesteps(4, device="cuda")
    scheduler.set_begin_index(0)
    scheduler.step(output, scheduler.timesteps[0], sample, generator=generators)


def of_windows(session: Any, seen: Seen) -> None:
    """Note the launches of a segment, and those of its windows, however many they are, without the networks."""
    seen.note("segment", _of_segment(session, seen))
    name = "windows" if len(seen.output) == 1 else "windows of several samples"
    for windows in (2, 4):
        seen.note(name, _of_windows(session, seen, windows))


def _of_segment(session: Any, seen: Seen) -> Counter[str]:
    output, x, raw = _inputs(session, seen)
    draws = to_device(draw_segment(len(x), session.config), x.device)
    before = seen.count()
    loss, _ = segment_loss(
        lambda x, raw: session.student.decoder.policy(output, x, raw),
        lambda x, sigma: torch.empty_like(x),
        Segment(x, raw, raw),
        session.config,
        draws=draws,
    )
    loss.backward()
    return seen.count() - before


def _of_windows(session: Any, seen: Seen, windows: int) -> Counter[str]:
    output, x, raw = _inputs(session, seen)
    policy = session.student.decoder.policy(output.detach(), x, raw)
    leaves = [getattr(policy, name).requires_grad_() for name in policy.outputs]
    states, raws = x.new_empty(windows, *x.shape), raw.new_empty(windows, len(raw))
    upstream = torch.empty_like(states)
    before = seen.count()
    velocities = imitation.mean_velocities(policy, states, raws, raws, longest=0.1)
    torch.autograd.grad(velocities, leaves, upstream)
    return seen.count() - before


def _inputs(session: Any, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """The end of the network, so that gradients which come back in another form than they went count; states; times."""
    assert seen.output is not None, "a step comes first"
    batch, device = len(seen.output), torch.device("cuda")
    output = torch.empty_like(seen.output).requires_grad_()
    x = torch.empty(batch, *session.data.shape, device=device)
    return output, x, torch.empty(batch, dtype=torch.float64, device=device)


def beyond(seen: Seen) -> list[str]:
    """Launches beyond those that are allowed."""
    if not seen.kind:
        # No network was asked for a policy.
        return []
    more = 0 if seen.flow else CONVERTED
    most = {name: count + more for name, count in MOST_LAUNCHES[seen.kind].items()}
    return [
        f"{name} of {seen.kind}: {total(counted)} launches, {most[name]} allowed: {sorted(counted)}"
        for name, counted in seen.most.items()
        if name in most and total(counted) > most[name]
    ]


def total(counted: Counter[str]) -> int:
    """The number of launches."""
    return counted.total() - counted[CALLS]
