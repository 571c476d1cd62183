"""Faults to plant, each of which :mod:`check` must see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from piflow_cli.core import imitation
from piflow_cli.core.kernels import gm_triton
from piflow_cli.students import scheduler
from piflow_cli.training import loop


def back_to_the_host() -> AbstractContextManager:
    """A ``.cpu()`` in the step."""
    whole = imitation.mean_velocities
    return mock.patch.object(imitation, "mean_velocities", lambda *given, **named: whole(*given, **named).cpu().cuda())


def on_the_wrong_device() -> AbstractContextManager:
    """Random numbers that stay on the host."""
    whole = loop.to_device

    def moved(nest: Any, *given: Any) -> Any:
        first, _, *others = whole(nest, *given)
        return first, nest[1], *others

    return mock.patch.object(loop, "to_device", moved)


def an_item() -> AbstractContextManager:
    """A number that is asked of the device."""
    whole = imitation.mean_velocities

    def asked(policy: Any, x: Any, raw: Any, *given: Any, **named: Any) -> Any:
        return whole(policy, x, raw, *given, **named) * raw.max().item()

    return mock.patch.object(imitation, "mean_velocities", asked)


@contextmanager
def a_constant_that_is_called() -> Iterator[None]:
    """``batch.to`` in a kernel: at batch 1 Triton makes a constant of it, which has no such method."""
    kernel, cast = gm_triton.forward_kernel, "tl.cast(batch, tl.int64)"
    source = kernel.src
    assert cast in source, "the kernel no longer casts its batch"
    kernel._unsafe_update_src(source.replace(cast, "batch.to(tl.int64)"))
    try:
        yield
    finally:
        kernel._unsafe_update_src(source)


def an_argument_of_the_wrong_type() -> AbstractContextManager:
    """A number of blocks that is a float."""
    whole = gm_triton.triton
    divided = SimpleNamespace(cdiv=lambda a, b: a / b, next_power_of_2=whole.next_power_of_2)
    return mock.patch.object(gm_triton, "triton", divided)


@contextmanager
def a_launch_more() -> Iterator[None]:
    """Nothing added, to a state while sampling and to a velocity while training."""
    state, velocity = scheduler.rollout, imitation.mean_velocities
    with (
        mock.patch.object(scheduler, "rollout", lambda *given, **named: state(*given, **named) + 0),
        mock.patch.object(imitation, "mean_velocities", lambda *given, **named: velocity(*given, **named) + 0),
    ):
        yield


FAULTS: dict[str, Callable[[], AbstractContextManager]] = {
    function.__name__: function
    for function in (
        back_to_the_host,
        on_the_wrong_device,
        an_item,
        a_constant_that_is_called,
        an_argument_of_the_wrong_type,
        a_launch_more,
    )
}
