"""What may be wrong with a machine, or with what it computes: brought about for a line, and mended by what its hint
says.

Each is a context, told by a word which fault it is to be; it ends where another program has mended the fault.
"""

from __future__ import annotations

import errno
import importlib.util
import resource
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import reduce
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import huggingface_hub
import PIL.Image
import pytest
import torch
from huggingface_hub.errors import LocalTokenNotFoundError

from piflow_cli.app import main
from piflow_cli.core.policies.kinds import policy_names
from piflow_cli.core.validation import PolicyError
from piflow_cli.evaluation.extractors import inception_weights
from piflow_cli.exporting import driver
from piflow_cli.system.files import files_digest
from piflow_cli.teachers import family_of
from piflow_cli.training.loop import train_step
from piflow_cli.training.opening import open_models
from piflow_cli.weights.cache import Cache, ShardWriter

Patch = pytest.MonkeyPatch
FIND_SPEC = importlib.util.find_spec


class Reached(Exception):
    """All that can be refused has been looked at, and the pictures would be made now."""


def reached(*given: object, **options: object) -> None:
    raise Reached


# Where the commands that take longest begin to compute.
COMPUTING = (
    "piflow_cli.sampling.sample.batches",
    "piflow_cli.evaluation.generate.Generation.run",
    "piflow_cli.inspection.inspect.examine",
    "piflow_cli.training.run.train_step",
)


class Hiding(MetaPathFinder):
    """A finder of modules that does not see one package."""

    def __init__(self, finder: Any, package: str) -> None:
        self.finder, self.package = finder, package

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] == self.package else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def hidden(patch: Patch, package: str) -> None:
    """The package is not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        patch.delitem(sys.modules, name)
    patch.setattr(sys, "meta_path", [Hiding(finder, package) for finder in sys.meta_path])
    patch.setattr(importlib.util, "find_spec", FIND_SPEC)


def needed(patch: Patch, package: str) -> None:
    """What computes imports the package first."""

    def compute(*given: object, **options: object) -> None:
        import_module(package)
        raise Reached

    for place in COMPUTING:
        patch.setattr(place, compute)


def unfit(patch: Patch, package: str) -> None:
    """The package was built for another version of what it stands on."""

    class Failing(MetaPathFinder):
        def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
            if name.partition(".")[0] == package:
                raise RuntimeError("operator torchvision::nms does not exist")

    hidden(patch, package)
    patch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])


def old_diffusers(patch: Patch, name: str) -> None:
    """diffusers has no class of that name yet."""
    import diffusers

    known = {one: getattr(diffusers, one) for one in ("AutoModel", "__version__")}
    patch.setattr("piflow_cli.exporting.formats.piflow_scheduler.diffusers", SimpleNamespace(**known))


def refused(patch: Patch, told: str) -> None:
    """The system refuses to write pictures in a folder, with the error of that number: "EACCES FOLDER"."""
    number, folder = told.split()
    save = PIL.Image.Image.save

    def save_elsewhere(image: PIL.Image.Image, path: Any, *given: Any, **options: Any) -> None:
        if str(path).startswith(folder):
            raise OSError(getattr(errno, number), "refused", str(path))
        save(image, path, *given, **options)

    patch.setattr(PIL.Image.Image, "save", save_elsewhere)


@contextmanager
def small_files(size: str) -> Iterator[None]:
    """The system lets files be of so many bytes only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


def gpus(patch: Patch, count: str) -> None:
    """torch sees so many GPUs."""
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: int(count))


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


def diverging(patch: Patch, rate: str) -> None:
    """From that learning rate on, the weights are infinite after a step."""

    def step(session: Any) -> None:
        train_step(session)
        if session.preset.optimisation.learning_rate >= float(rate):
            torch.nn.init.constant_(next(session.model.parameters()), torch.inf)

    patch.setattr("piflow_cli.training.run.train_step", step)


def token_wanted(patch: Patch, name: str) -> None:
    """The Hub's client wants a token of its own accord."""
    whole = getattr(huggingface_hub, name)

    def ask(*given: Any, **options: Any) -> Any:
        if huggingface_hub.get_token() is None:
            raise LocalTokenNotFoundError("no token")
        return whole(*given, **options)

    patch.setattr(huggingface_hub, name, ask)


def offline(patch: Patch, value: str) -> None:
    """The environment forbids asking the Hub."""
    patch.setenv("HF_HUB_OFFLINE", value)
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def published(patch: Patch, file: str) -> None:
    """That file is the one that was published as Inception's weights."""
    patch.setattr(inception_weights, "DIGEST", files_digest([Path(file)]))


def weighted(patch: Patch, file: str) -> None:
    """That file is in one of the usual places of Inception's weights."""
    patch.setattr(inception_weights, "weight_places", lambda cache: [Path(file)])


def weightless(patch: Patch, folder: str) -> None:
    """Nothing can be downloaded, and no file of before is in the places of this machine."""
    patch.setattr("tempfile.tempdir", folder)
    patch.setenv("TORCH_HOME", folder)

    def unreachable(*given: object, **options: object) -> None:
        raise URLError("no network")

    patch.setattr("torch.hub.download_url_to_file", unreachable)


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


def homeless(patch: Patch, told: str) -> None:
    """The user has no home."""

    def home() -> None:
        raise RuntimeError("Could not determine home directory.")

    patch.setattr(Path, "home", home)


def changed_files(patch: Patch, told: str) -> None:
    """No file that came with piflow is as it was."""
    patch.setattr("piflow_cli.weights.digests.files_digest", lambda paths: told)


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


def patched(make: Callable[[Patch, str], None]) -> Callable[[str], AbstractContextManager[None]]:
    @contextmanager
    def context(told: str) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            make(patch, told)
            yield

    return context


PATCHES = (
    hidden,
    needed,
    unfit,
    old_diffusers,
    refused,
    small_memory,
    gpus,
    own_fault,
    coarse,
    infinite_states,
    losing,
    typed_before,
    no_policy,
    diverging,
    token_wanted,
    offline,
    published,
    weighted,
    weightless,
    computing_nowhere,
    measuring_nothing,
    losing_shards,
    homeless,
    changed_files,
    unknown_facts,
    unknown_policy,
    not_placed,
)
FAULTS: dict[str, Callable[[str], AbstractContextManager[None]]] = {
    "small_files": small_files,
    **{made.__name__: patched(made) for made in PATCHES},
}
