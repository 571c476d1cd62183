"""Two metrics that piflow does not know: one of pictures against a reference, one of a student beside its teacher.
They live here, as another package's would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from piflow_cli.evaluation.metric_kinds import FEATURES, FINE, OWN_TEACHER, REFERENCE, STUDENT, MetricKind, Number

if TYPE_CHECKING:
    from piflow_cli.evaluation.distributions import Measure, Sides
    from piflow_cli.evaluation.measuring import Measuring
    from piflow_cli.evaluation.rows import Row


def brightness(sides: Sides) -> list[Measure]:
    """Mean over features of how far apart their means are."""
    apart = (sides.ours.moments.mean - sides.reference.moments.mean).abs().mean()
    return [sides.number("brightness", apart.item())]


def gains(measuring: Measuring) -> Iterator[Row]:
    """Mean of a candidate's pictures less that of the teacher's of the same noise."""
    decode = measuring.compared.opened.decode
    for candidate in measuring.candidates:
        pairs = [(decode(ours), decode(fine)) for ours, fine in measuring.pairs(candidate)]
        count = sum(len(ours) for ours, _ in pairs)
        gain = sum((ours - fine).flatten(1).mean(dim=1).sum().item() for ours, fine in pairs) / count
        yield measuring.row(candidate, "brightness-gain", gain, count, reference=measuring.fine_name)


BRIGHTNESS = MetricKind(
    name="brightness",
    measure="brightness:brightness",
    numbers=(Number("brightness", "brightness", "distance of mean features", "lower", drawn=True),),
    needs=frozenset({FEATURES, REFERENCE}),
)
GAIN = MetricKind(
    name="brightness-gain",
    measure="brightness:gains",
    numbers=(
        Number("brightness-gain", "brightness gain", "mean of pictures less that of the teacher's; 0 is as bright"),
    ),
    needs=frozenset({STUDENT, OWN_TEACHER, FINE}),
)
