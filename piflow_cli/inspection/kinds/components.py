"""What policies of several components have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..entropy import dead_components, overall_effective
from ..remedies import AdviceParts, SettingOf, more_dropout, set_key

COLLAPSED = 1.2


def component_numbers(numbers: Any) -> dict[str, Any]:
    """The fields that summaries of such policies share, of the numbers (B, ...) of all samples."""
    return {
        "components": numbers.usage.shape[1],
        "effective": tuple(numbers.effective.mean(dim=0).tolist()),
        "effective_overall": overall_effective(numbers.usage),
        "usage": numbers.usage.mean(dim=0).tolist(),
        "dead": dead_components(numbers.highest),
    }


def component_advice(part: Any, fewest: int, setting: SettingOf) -> Iterator[AdviceParts]:
    """Advice on components that count for nothing; ``fewest``: the smallest number that such a policy has."""
    components, dropout = part.components, more_dropout(setting)
    if components > fewest and part.effective[1] < COLLAPSED:
        used = "one and the same everywhere" if part.effective_overall < COLLAPSED else "one at a position"
        yield (
            "collapsed mixture",
            f"of {components} components {used} is in effect ({part.effective[1]:.2f} at half of the positions)",
            f"{dropout} makes others matter; if one is enough, {set_key('policy.components', fewest)}",
        )
    elif part.dead:
        names = ", ".join(str(index) for index in part.dead)
        yield (
            "dead components",
            f"{len(part.dead)} of {components} components have no weight anywhere: {names} (counted from 0)",
            f"{set_key('policy.components', max(fewest, components - len(part.dead)))}, or {dropout}",
        )


def in_effect(part: Any) -> tuple[str, str]:
    """The line of the verdict on how many of the components of a policy count."""
    return (
        "components in effect",
        f"{part.effective[1]:.1f} of {part.components} at a position, {part.effective_overall:.1f} overall",
    )
