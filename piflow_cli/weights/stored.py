"""Tensors on disk, one at a time: of a safetensors file, of the shards of an index, or of a pickled checkpoint."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..errors import PiflowError, RunError, is_of_the_system
from ..system.files import is_plain_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INDEX_SUFFIX = ".index.json"
# Published files may be saved from the pipeline, whose part the transformer is.
PREFIX = "transformer."


class StoredWeights:
    """The tensors of a student on disk, under their names relative to the transformer.

    Shapes and dtypes are known at once, values are read when asked for: memory holds one tensor at a time, and of a
    mapped file no more than that either. ``metadata`` is that of the first file. ``held`` stand in for what ``path``
    has, if given.

    Raises RunError where a file is corrupt or cut short, or a pickled one holds more than tensors.
    """

    def __init__(self, path: Path, held: Mapping[str, Tensor] | None = None) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        if held is None and path.suffix not in (".safetensors", ".json"):
            held = _checkpoint(path)
        self._held = held
        if held is None:
            for number, file in enumerate(shards_of(path)):
                self._note_file(file, first=number == 0)
        else:
            for name, value in held.items():
                self._note(name, value, path)

    def _note_file(self, file: Path, first: bool) -> None:
        with opened_tensors(file) as tensors:
            if first:
                self.metadata = tensors.metadata() or {}
            for key in tensors.keys():
                # The file is mapped, so no value is read yet.
                self._note(key, tensors.get_tensor(key), file)

    def _note(self, key: str, value: Tensor, file: Path) -> None:
        name = key.removeprefix(PREFIX)
        if name in self._places:
            raise RunError(f"{self.path} holds {name} twice", "save it again with one of the two")
        self._places[name] = (file, key)
        self.shapes[name], self.dtypes[name] = value.shape, value.dtype

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def read(self, name: str) -> Tensor:
        """The value of a tensor, on the CPU, in its stored dtype; it may be a view of the file, which is read-only."""
        file, key = self._places[name]
        if self._held is not None:
            return self._held[key]
        # Opened anew each time: pages of a mapped file count as memory until the mapping goes.
        with opened_tensors(file) as tensors:
            return tensors.get_tensor(key)


def weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor of an ``index`` of shards; raises RunError for a file that is no index."""
    try:
        found = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items())
        sorted(set(found.values()))  # raises TypeError for what cannot be names
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{index} is no index of weights", "copy it again") from error
    return found


def shards_of(path: Path) -> list[Path]:
    """The files of an index of shards, or the file itself; raises RunError for a bad index or a missing file."""
    if not path.name.endswith(INDEX_SUFFIX):
        return [path]
    names = sorted(set(weight_map(path).values()))
    if strange := [name for name in names if not is_plain_name(name)]:
        raise RunError(
            f"{path} is no index of weights: it names {strange[0]!r}, which is no file beside it", "copy it again"
        )
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing or not names:
        raise RunError(
            f"{path.parent} is incomplete: {missing[0] if missing else 'every shard'} is missing", "copy it again"
        )
    return [path.parent / name for name in names]


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; raises RunError where it is corrupt or cut short."""
    with opened_tensors(path) as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}


@contextmanager
def opened_tensors(path: Path, framework: str = "pt") -> Generator[Any]:
    """A safetensors file with tensors of ``framework``; raises RunError where it is corrupt or cut short."""
    try:
        with safe_open(path, framework) as file:
            yield file
    except SafetensorError as error:
        if is_of_the_system(error):
            raise
        raise RunError(f"{path} is corrupt or cut short: {error}", "copy it again, or make it anew") from error


def _checkpoint(path: Path) -> Mapping[str, Tensor]:
    from .pickled import read_pickled

    try:
        return read_pickled(path)
    except PiflowError as error:
        raise RunError(
            f"{path}: {error.message}", "download it again, or save its state dict as safetensors"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; errors of :func:`~piflow_cli.weights.pickled.read_pickled`."""
    from .pickled import read_pickled

    return read_safetensors(path)[1] if path.suffix == ".safetensors" else read_pickled(path)
