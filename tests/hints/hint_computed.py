"""What goes wrong where something is computed, for lines whose hints answer that: patches, told which by a word."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import reduce
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from piflow_cli.app import main
from piflow_cli.core.policies.kinds import policy_names
from piflow_cli.core.validation import PolicyError
from piflow_cli.exporting import driver
from piflow_cli.teachers import family_of
from piflow_cli.training.loop import train_step
from piflow_cli.training.opening import open_models
from piflow_cli.weights.cache import Cache, ShardWriter

Patch = pytest.MonkeyPatch


class Reached(Exception):
    """All that can be refused has been looked at, and the pictures would be made now."""


def reached(*given: object, **options: object) -> None:
    raise Reached


# Where the commands that take longest begin to compute.
COMPUTING = (
    "piflow_cli.sampling.sample.batches",
    "piflow_cli.evaluation.generate.Generation.run",
    "piflow_cli.inspection.inspect.examine",
    "piflow_cli.demo.window.Window.open",
    "piflow_cli.training.run.train_step",
)


def small_memory(patch: Patch, told: str) -> None:
    """The memory is too small, with that error, until a setting is what it has to be: "MemoryError KEY=VALUE"."""
    name, setting = told.split()
    error = {"MemoryError": MemoryError(), "OutOfMemoryError": torch.OutOfMemoryError("CUDA out of memory")}[name]
    key, _, enough = setting.partition("=")

    def batches(specs: Sequence[object], size: int) -> None:
        raise Reached if str(size) == enough else error

    def step(session: Any) -> None:
        value = reduce(lambda part, word: getattr(part, word, None), key.split("."), session.preset)
        raise Reached if str(value) == enough else error

    patch.setattr("piflow_cli.sampling.sample.batches", batches)
    patch.setattr("piflow_cli.training.run.train_step", step)


def own_fault(patch: Patch, place: str) -> None:
    """The program has a fault of its own there."""

    def fail(*given: object, **options: object) -> None:
        raise ValueError("odd")

    patch.setattr(place, fail)


def coarse(patch: Patch, difference: str) -> None:
    """What is written in another dtype than the student's is so far from it."""
    whole = driver._verified

    def verified(writer: Any, found: float, request: Any) -> float:
        return whole(writer, found if request.dtype is None else float(difference), request)

    patch.setattr(driver, "_verified", verified)


def infinite_states(patch: Patch, module: str) -> None:
    """What a student draws is not finite, as a module sees it."""
    patch.setattr(f"{module}.all_finite", lambda states: False)


def losing(patch: Patch, folder: str) -> None:
    """A cache there loses what is put into it."""
    put = Cache.put

    def put_elsewhere(cache: Cache, key: str, entry: Any) -> None:
        if not cache.folder.is_relative_to(folder):
            put(cache, key, entry)

    patch.setattr(Cache, "put", put_elsewhere)


def typed_before(patch: Patch, line: str) -> None:
    """Another line was typed before."""
    assert main(shlex.split(line)) == 0


def no_policy(patch: Patch, dtype: str) -> None:
    """A student emits no policy where its base computes in that dtype."""

    def examine(opened: Any, *given: object) -> None:
        model = opened.student.model
        found = next(value.dtype for value in model.parameters() if value.ndim == 2)
        raise PolicyError("means", "holds a value that is not finite") if str(found) == dtype else Reached

    patch.setattr("piflow_cli.inspection.inspect.examine", examine)


def slow(patch: Patch, seconds: str) -> None:
    """Whoever looks at the clock of a run finds it so many seconds later than the time before."""
    clock = count(float(seconds), float(seconds))
    patch.setattr("piflow_cli.commands.distill.time", SimpleNamespace(monotonic=lambda: next(clock)))
    for module in ("run", "spending"):
        patch.setattr(f"piflow_cli.training.{module}.now", lambda: next(clock))


def diverging(patch: Patch, rate: str) -> None:
    """From that learning rate on, the weights are infinite after a step."""

    def step(session: Any) -> None:
        train_step(session)
        if session.preset.optimisation.learning_rate >= float(rate):
            torch.nn.init.constant_(next(session.model.parameters()), torch.inf)

    patch.setattr("piflow_cli.training.run.train_step", step)


def computing_nowhere(patch: Patch, told: str) -> None:
    """What is loaded for a GPU stays where it is."""
    patch.setattr("piflow_cli.sampling.text.StockEncoders", reached)


def measuring_nothing(patch: Patch, told: str) -> None:
    """Distances of 2,048 features would take half a minute."""
    patch.setattr("piflow_cli.evaluation.folder_run.measure", reached)


def losing_shards(patch: Patch, folder: str) -> None:
    """What other processes encode goes into another cache than the one there."""
    flush = ShardWriter.flush

    def flush_elsewhere(writer: ShardWriter) -> None:
        if not writer.folder.is_relative_to(folder):
            flush(writer)

    patch.setattr(ShardWriter, "flush", flush_elsewhere)


def unknown_facts(patch: Patch, name: str) -> None:
    """A student was saved by a newer piflow, and this one does not know all that it says."""
    patch.setattr("piflow_cli.students.facts.out_of_range", lambda values: [f"{name} is unknown"])


def unknown_policy(patch: Patch, name: str) -> None:
    """This piflow has no such policy yet."""
    patch.setattr("piflow_cli.students.facts.policy_names", lambda: [one for one in policy_names() if one != name])


def not_placed(patch: Patch, told: str) -> None:
    """A run on GPUs opens its models, and nothing of them is moved there."""

    def opened(preset: Any, *given: object) -> None:
        open_models(preset, family_of(preset.teacher.family))
        raise Reached

    patch.setattr("piflow_cli.training.run.open_session", opened)


COMPUTED = (
    small_memory,
    own_fault,
    coarse,
    infinite_states,
    losing,
    typed_before,
    no_policy,
    diverging,
    slow,
    computing_nowhere,
    measuring_nothing,
    losing_shards,
    unknown_facts,
    unknown_policy,
    not_placed,
)
