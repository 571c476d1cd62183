"""What may be wrong with a machine, or with what it computes: brought about for a line, and mended by what its hint
says.

Each is a context, told by a word which fault it is to be; it ends where another program has mended the fault.
"""

from __future__ import annotations

import errno
import importlib.util
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import URLError

import huggingface_hub
import pytest
import torch
from hint_computed import COMPUTED, COMPUTING, Reached
from hint_doctor import OF_MACHINES
from huggingface_hub.errors import LocalTokenNotFoundError

from piflow_cli.evaluation.extractors import efficientnet, inception_weights
from piflow_cli.evaluation.metrics import squeezenet_weights
from piflow_cli.system.files import files_digest
from piflow_cli.training.dry_run.memory import Bytes
from piflow_cli.training.dry_run.room import Disk, Need

Patch = pytest.MonkeyPatch
FIND_SPEC = importlib.util.find_spec


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


class Unimportable(MetaPathFinder, Loader):
    """A finder of one package, whose import raises the error."""

    def __init__(self, package: str, error: Exception) -> None:
        self.package, self.error = package, error

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] == self.package else None

    def exec_module(self, module: ModuleType) -> None:
        raise self.error


def unfit(patch: Patch, package: str) -> None:
    """The package was built for another version of what it stands on."""
    _failing(patch, package, RuntimeError("operator torchvision::nms does not exist"))


def unloaded(patch: Patch, package: str) -> None:
    """A file of the package is not there."""
    _failing(patch, package, ImportError("libcudart.so: cannot open shared object file"))


def _failing(patch: Patch, package: str, error: Exception) -> None:
    hidden(patch, package)
    patch.setattr(sys, "meta_path", [Unimportable(package, error), *sys.meta_path])


def old_diffusers(patch: Patch, name: str) -> None:
    """diffusers has no class of that name yet."""
    import diffusers

    known = {one: getattr(diffusers, one) for one in ("AutoModel", "__version__")}
    patch.setattr("piflow_cli.exporting.formats.piflow_scheduler.diffusers", SimpleNamespace(**known))


def refused(patch: Patch, told: str) -> None:
    """The system refuses to write pictures in a folder, with the error of that number: "EACCES FOLDER"."""
    number, folder = told.split()
    write = Path.write_bytes

    def write_elsewhere(path: Path, content: bytes) -> None:
        if str(path).startswith(folder):
            raise OSError(getattr(errno, number), "refused", str(path))
        write(path, content)

    patch.setattr(Path, "write_bytes", write_elsewhere)


@contextmanager
def small_files(size: str) -> Iterator[None]:
    """The system lets files be of so many bytes only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def gpus(patch: Patch, count: str) -> None:
    """torch sees so many GPUs."""
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: int(count))
    patch.setattr(torch.cuda, "set_device", lambda device: None)
    patch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 10**9))
    patch.setattr(torch.cuda, "mem_get_info", lambda device: (79 * 10**9, 80 * 10**9))
    patch.setattr(torch.cuda, "get_device_name", lambda device: "Imagined 80")


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


def other_weights(patch: Patch, network: str) -> None:
    """The package that brings the weights of that network brings others."""
    modules = {"efficientnet": efficientnet, "squeezenet": squeezenet_weights}
    patch.setattr(modules[network], "DIGEST", "0" * 64)


def homeless(patch: Patch, told: str) -> None:
    """The user has no home."""

    def home() -> None:
        raise RuntimeError("Could not determine home directory.")

    patch.setattr(Path, "home", home)


def full_disk(patch: Patch, folder: str) -> None:
    """Nothing has room below that folder, which is a file system of its own."""

    def disks(needs: Iterable[Need]) -> list[Disk]:
        return [Disk((need,), Bytes(0 if need.folder.is_relative_to(folder) else 10**15)) for need in needs]

    patch.setattr("piflow_cli.training.dry_run.fit.disks_here", disks)


def changed_files(patch: Patch, told: str) -> None:
    """No file that came with piflow is as it was."""
    patch.setattr("piflow_cli.weights.digests.files_digest", lambda paths: told)


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
    unloaded,
    old_diffusers,
    refused,
    gpus,
    token_wanted,
    offline,
    published,
    weighted,
    weightless,
    other_weights,
    homeless,
    full_disk,
    changed_files,
    *COMPUTED,
    *OF_MACHINES,
)
FAULTS: dict[str, Callable[[str], AbstractContextManager[None]]] = {
    "small_files": small_files,
    **{made.__name__: patched(made) for made in PATCHES},
}
