"""The kinds of arguments that the functions of the door take: how a caller may write one, and what requests make of it.

Each is an annotation of a parameter. Whatever it does not take is refused in its own words.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Annotated, Any

from ..console import Console
from ..presets.bounds import IMAGES
from ..presets.places import expanded
from ..sampling.limits import BasePrecision as Precision
from ..sampling.limits import Offload as Offloading

Place = str | Path
"""A path, or a name: of a preset, or on the Hub."""


@dataclass(frozen=True)
class Taken:
    """What an argument may be.

    Attributes:
        words: continue "NAME must be".
        read: the value for a request; raises TypeError or ValueError for what is not taken.
    """

    words: str
    read: Callable[[Any], Any]


def instance_of(kind: Any) -> Callable[[Any], Any]:
    """A reader that takes objects of a class, or of one of a union, as they are."""

    def read(given: Any) -> Any:
        if not isinstance(given, kind):
            raise TypeError
        return given

    return read


def _text(given: Any) -> str:
    return str(instance_of(Place)(given))


def _source(given: Any) -> str:
    # A name on the Hub, or of a preset, is to stay as it is written.
    return str(expanded(given)) if _text(given).startswith("~") else _text(given)


def _device(given: Any) -> str:
    torch = sys.modules.get("torch")  # without it, nobody holds one of its devices
    if torch is not None and isinstance(given, torch.device):
        return str(given)
    return instance_of(str)(given)


def _sharing(given: Any) -> str:
    if given not in ("auto", "ddp", "fsdp2"):
        raise ValueError(given)
    return given


def _path(given: Any) -> Path:
    return expanded(instance_of(Place)(given))


def _several(read: Callable[[Any], str]) -> Callable[[Any], tuple[str, ...]]:
    """A reader of one place or text, or of several."""
    return lambda given: (read(given),) if isinstance(given, Place) else tuple(map(read, _items(given)))


def _whole(given: Any) -> int:
    if isinstance(given, bool):
        raise TypeError
    return operator.index(given)


def whole_numbers(given: Any) -> tuple[int, ...]:
    """Whole numbers, of numpy and torch too, as plain ones."""
    return tuple(map(_whole, _items(given)))


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError
    return given if isinstance(given, int | float) else float(given)


def _temperature(given: Any) -> float | str:
    return given if isinstance(given, str) else _number(given)


def _loras(given: Any) -> tuple[tuple[str, float], ...]:
    return tuple((_source(path), _number(scale)) for path, scale in _items(given))


def _keys(given: Any) -> dict[str, object]:
    return {instance_of(str)(key): value for key, value in instance_of(Mapping)(given).items()}


def _items(given: Any) -> list[Any]:
    """What there is in an iterable, which may have no end: a request is of so many pictures at most."""
    return list(islice(given, math.floor(IMAGES.most) + 1))


Source = Annotated[Place, Taken("a path or a name", _source)]
Sources = Annotated[Place | Iterable[Place], Taken("a path or a name, or several", _several(_source))]
FileOrFolder = Annotated[Place, Taken("a path", _path)]
Word = Annotated[str, Taken("a text", instance_of(str))]
Texts = Annotated[str | Iterable[str], Taken("a text, or several", _several(_text))]
Whole = Annotated[int, Taken("a whole number", _whole)]
Wholes = Annotated[Iterable[int], Taken("whole numbers, like range(4) or [0, 7]", whole_numbers)]
Number = Annotated[float, Taken("a number", _number)]
Temperature = Annotated[float | str, Taken("a number or 'auto'", _temperature)]
Switch = Annotated[bool, Taken("True or False", instance_of(bool))]
Loras = Annotated[
    Iterable[tuple[Place, float]], Taken("pairs of a path and a scale, like [('style.safetensors', 0.8)]", _loras)
]
Keys = Annotated[Mapping[str, object], Taken("a dictionary of settings, like {'policy.nfe': 4}", _keys)]
# Their choices are checked with the request, as those of the command line are.
BasePrecision = Annotated[Precision, Taken("a text", instance_of(str))]
Offload = Annotated[Offloading, Taken("a text", instance_of(str))]
Device = Annotated[str, Taken("auto, cpu, cuda or cuda:N", _device)]
Sharing = Annotated[str, Taken("'auto', 'ddp' or 'fsdp2'", _sharing)]
Speaker = Annotated[Console, Taken("a Console", instance_of(Console))]
