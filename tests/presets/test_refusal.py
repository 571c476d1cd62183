"""The hint of a fault of settings is something to type, and the value in it is one that the key may have."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.presets.keys import known_keys
from piflow_cli.presets.resolve import resolve

# Keys to which neither digits nor flux-dev gives a value.
NULL_IN_ALL = (
    "teacher.revision",
    "teacher.config",
    "teacher.vae",
    "teacher.guidance_2",
    "data.prompts",
    "data.captioned",
    "data.cache",
    "imitation.data_free",
)


def refused(*arguments: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(*arguments)
    return caught.value


@pytest.mark.parametrize("key", known_keys())
def test_every_key_has_a_value_that_can_be_typed(key):
    """No key may be a section of keys; once the hint is typed, nothing is wrong with the key's own value."""
    wrong = f"{key}={{a: b}}"
    hint = refused("digits", None, [wrong], {}).hint
    if key in NULL_IN_ALL:
        assert hint == f"leave --set '{wrong}' out"
        return
    option, assignment = shlex.split(hint.removeprefix("type "))
    assert option == "--set" and assignment.startswith(f"{key}=")
    try:
        resolve("digits", None, [wrong, assignment], {})
    except UsageError as error:
        # Of a key that goes with other teachers or other keys.
        assert "must be" not in error.message, error.message


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        ({"policy.kind": "gmm"}, "--policy gmm: must be gm, dx", "did you mean gm? type --policy gm"),
        ({"policy.nfe": 0}, "--nfe 0: must be at least 1, not 0", "type --nfe 1"),
        ({"policy.nfe": 200}, "--nfe 200: imitation.window is 5 substeps", "type --set imitation.window=1"),
        ({"policy.components": 1, "policy.kind": "momentum"}, "--components 1: must be", "type --components 2"),
        ({"seed": -1, "policy.nfe": 0}, "2 faults", "type --nfe 1 --seed 0"),
    ],
)
def test_an_option_is_named_as_it_was_typed(flags, message, hint):
    error = refused("digits", None, [], flags)
    assert error.message.startswith(message) and error.hint == hint


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("policy: {nfe: 0}", "in {}, below policy write nfe: 1"),
        ("seed: -1", "in {}, write seed: 0"),
        ("policy: {kind: gmm}", "in {}, below policy write kind: gm"),
        ("policy: {substep: 3}", "in {}, write substeps in place of substep"),
        ("polcy: {nfe: 3}", "in {}, write policy in place of polcy"),
        ("nfe: 3", "in {}, move nfe below policy"),
        ("{policy: {nfe: 1, nfe: 2}}", "keep one of the two lines in {}"),
        ("policy: 3", "in {}, below policy write kind: gm"),
        ("imitation: {window: 500}", "in {}, below imitation write window: 128"),
        ("policy: {kind: dx, temperature: 0.5}", "take temperature below policy out of {}; piflow distill"),
    ],
)
def test_a_file_is_named_with_what_to_write(tmp_path: Path, content, hint):
    path = tmp_path / "changes.yaml"
    path.write_text(content)
    assert refused("digits", path, [], {}).hint.startswith(hint.format(path))


def test_a_variant_of_ones_own_preset_is_mended_in_its_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: digits\nname: mine\nsummary: mine\nvariants: {gmm: {policy: {nfe: 2}}}\n")
    assert refused(path, None, [], {}).hint == f"in {path}, write gm in place of gmm"
    path.write_text("extends: digits\nname: mine\nsummary: mine\nvariants: {dx: {policy: {nfe: 0}}}\n")
    assert refused(path, None, [], {}).hint == f"in {path}, below variants.dx.policy write nfe: 1"
