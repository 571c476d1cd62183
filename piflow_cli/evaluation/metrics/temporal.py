"""The change of a video from frame to frame, against that of the teacher's fine solution of the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ...errors import UsageError
from ..rows import Row

if TYPE_CHECKING:
    from ..compared import Compared
    from ..measuring import Measuring


def refuse(compared: Compared) -> None:
    """Raise UsageError where the videos have one frame."""
    if compared.frames == 1:
        raise UsageError(
            "--metrics temporal: videos of one frame do not change from frame to frame", "leave it out of --metrics"
        )


def temporal_errors(measuring: Measuring) -> Iterator[Row]:
    decode = measuring.compared.opened.decode
    for candidate in measuring.candidates:
        # The fine solution has no distance to itself.
        if candidate.identity == measuring.fine.identity:
            continue
        found = temporal(measuring.pairs(candidate), decode)
        for number, value in {"temporal-error": found.change, "frame-error": found.frame}.items():
            if value is None:
                measuring.note(f"no {number} of {candidate.title}: the teacher's videos have nothing to compare with")
            else:
                yield measuring.row(candidate, number, value, found.count, reference=measuring.fine_name)


@dataclass(frozen=True)
class Temporal:
    """Relative errors over ``count`` videos; None where the teacher's side of one is 0 throughout.

    ``change``: root mean square of (x[t+1] - x[t]) - (y[t+1] - y[t]) over that of y[t+1] - y[t], for frames x of the
    student and y of the teacher. ``frame``: root mean square of x[t] - y[t] over that of y[t]. All squares are pooled
    over videos, times and pixels before they are divided, so that a video that hardly moves counts for little.
    """

    count: int
    change: float | None
    frame: float | None


def temporal(pairs: Iterable[tuple[Tensor, Tensor]], decode: Callable[[Tensor], Tensor]) -> Temporal:
    """The errors of ``pairs`` of states (B, C, *S), student's and teacher's, batch by batch.

    ``decode`` turns states into videos (B, C, F, H, W) around [-1, 1], which are clipped to it, as viewers see them.
    """
    count, sums = 0, [0.0] * 4
    for ours, fine in pairs:
        count += len(ours)
        x, y = (decode(states).float().clamp(-1, 1) for states in (ours, fine))
        change, own = (x - y).diff(dim=2), y.diff(dim=2)
        sums = [total + _squares(part) for total, part in zip(sums, (change, own, x - y, y), strict=True)]
    return Temporal(count, _relative(*sums[:2]), _relative(*sums[2:]))


def _squares(values: Tensor) -> float:
    return values.double().square().sum().item()


def _relative(error: float, own: float) -> float | None:
    return math.sqrt(error / own) if own > 0 else None
