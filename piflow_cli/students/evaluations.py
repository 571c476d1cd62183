"""Numbers of network evaluations that a student was not trained for, and what comes of them, in words.

`docs/pages/results.md` has the measurements on digits that the words are from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..presets.families import boundary_of
from ..wording import evaluations

if TYPE_CHECKING:
    from .facts import StudentFacts


FEWEST_THAT_GAIN = 4


def steps_warning(facts: StudentFacts, steps: int) -> str | None:
    """What to know of pictures at ``steps`` evaluations; None where the student was trained for as many."""
    trained = f"the student was distilled at {facts.nfe} evaluation{'s' if facts.nfe > 1 else ''}"
    if steps < facts.nfe:
        reach = ", and its policies end before the steps do" if facts.has_own_segment else ""
        return f"{trained}: pictures of --steps {steps} may suffer{reach}"
    if steps == facts.nfe:
        return None
    if (most := gaining(facts)) is None:
        return f"{trained}, {_why(facts)}: pictures of --steps {steps} get worse"
    if steps <= most:
        return f"{trained}: pictures of --steps {steps} may gain a little"
    return f"{trained}: pictures of --steps {steps} are hardly better than those of --steps {most}"


def gaining(facts: StudentFacts) -> int | None:
    """The largest number of evaluations up to which pictures may gain; None where they get worse at once.

    On digits a GM student of four evaluations gains up to eight; those of one and two get worse, whatever the policy.
    Of two networks one would go on where the other knows the noise levels.
    """
    apart = facts.has_own_segment or boundary_of(facts.family) is not None
    return None if facts.nfe < FEWEST_THAT_GAIN or apart else 2 * facts.nfe


def steps_told(facts: StudentFacts) -> str:
    """The same as sentences for a model card."""
    trained = f"Trained for {evaluations(facts.nfe)}"
    if (most := gaining(facts)) is None:
        return f"{trained}, {_why(facts)}: with more of them pictures get worse."
    return f"{trained}. Up to {most} pictures may gain a little, and hardly anything beyond."


def _why(facts: StudentFacts) -> str:
    if boundary_of(facts.family) is not None:
        return "whose two networks take turns at its own steps"
    if facts.nfe == 1:
        return "from pure noise and no other state"
    return "with policies that span one step each" if facts.has_own_segment else "from few states on the way"
