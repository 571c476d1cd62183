"""What is said of numbers of evaluations that a student was not trained for."""

from __future__ import annotations

import pytest

from piflow_cli.presets.resolve import resolve
from piflow_cli.students.evaluations import steps_told, steps_warning
from piflow_cli.students.facts import StudentFacts


def facts(policy: str, nfe: int) -> StudentFacts:
    return StudentFacts.of(resolve("digits", None, [], {"policy.kind": policy, "policy.nfe": nfe}))


@pytest.mark.parametrize("policy", ["gm", "dx", "dx-poly", "momentum"])
@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_no_number_but_the_trained_one_passes_unsaid(policy: str, nfe: int) -> None:
    said = {steps: steps_warning(facts(policy, nfe), steps) for steps in range(1, 17)}
    assert [steps for steps, line in said.items() if line is None] == [nfe]


@pytest.mark.parametrize(
    ("policy", "nfe", "steps", "words"),
    [
        ("gm", 4, 2, "distilled at 4 evaluations: pictures of --steps 2 may suffer"),
        ("dx", 4, 2, "may suffer, and its policies end before the steps do"),
        ("gm", 1, 2, "distilled at 1 evaluation, from pure noise and no other state: pictures of --steps 2 get worse"),
        ("dx", 2, 3, "with policies that span one step each: pictures of --steps 3 get worse"),
        ("gm", 2, 4, "from few states on the way: pictures of --steps 4 get worse"),
        ("gm", 4, 8, "pictures of --steps 8 may gain a little"),
        ("momentum", 4, 9, "pictures of --steps 9 are hardly better than those of --steps 8"),
    ],
)
def test_words_are_of_policy_and_segments(policy: str, nfe: int, steps: int, words: str) -> None:
    assert words in str(steps_warning(facts(policy, nfe), steps))


def test_two_networks_take_turns_at_their_own_steps_alone() -> None:
    pair = StudentFacts.of(resolve("wan22-a14b", None, [], {"data.prompts": "prompts.txt"}))
    assert "whose two networks take turns at its own steps: pictures of --steps 8 get worse" in str(
        steps_warning(pair, 8)
    )
    assert steps_warning(pair, 4) is None


@pytest.mark.parametrize(
    ("policy", "nfe", "words"),
    [
        ("gm", 1, "Trained for one network evaluation, from pure noise"),
        ("dx", 4, "with more of them pictures get worse"),
        ("momentum", 4, "Up to 8 pictures may gain a little"),
    ],
)
def test_a_card_says_the_same(policy: str, nfe: int, words: str) -> None:
    assert words in steps_told(facts(policy, nfe))
