"""Every number that a preset or an option takes has an end, and says why."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import get_type_hints

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.errors import UsageError
from piflow_cli.presets import bounds
from piflow_cli.presets.bounds import Bound
from piflow_cli.presets.resolve import resolve, to_dict
from piflow_cli.presets.schema import SECTIONS

BOUNDS = {name: value for name, value in vars(bounds).items() if isinstance(value, Bound)}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_takes_its_largest_and_refuses_the_next(name):
    bound = BOUNDS[name]
    assert bound.reason and bound.check(bound.most) == bound.most and bound.option("--x")(None) is None
    with pytest.raises(ValueError, match=bound.text):
        bound.check(bound.most * 1.01 + 1)
    with pytest.raises(UsageError, match="--x") as caught:
        bound.option("--x")(bound.most * 1.01 + 1)
    assert bound.reason in caught.value.message
    # The hint is a value that is taken.
    assert bound.option("--x")(float(caught.value.hint.split()[2].rstrip(","))) == bound.most


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_nan_and_infinity_are_outside_of_every_bound(value):
    for bound in BOUNDS.values():
        assert (bound.fault(value) is None) == (value <= bound.most)
        assert math.isfinite(value) or value < 0 or bound.fault(value) is not None


def numbers() -> list[str]:
    """Dotted keys of every number in the presets."""
    whole = to_dict(resolve("flux-dev", None, ["data.prompts=x.txt"], {}))
    found = {"seed", "optimisation.device_batch_size", "data.resolution"}
    for section, kind in SECTIONS.items():
        for field in fields(kind):
            value = (whole[section] or {}).get(field.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found.add(f"{section}.{field.name}")
    return sorted(found)


@pytest.mark.parametrize("key", numbers())
def test_no_number_of_a_preset_is_without_end(key):
    for value in (10**30, "1e30", -1):
        with pytest.raises(UsageError) as caught:
            resolve("flux-dev", None, [f"{key}={value}"], {})
        assert key in caught.value.message and "\n" not in caught.value.message


def test_sides_in_lists_end_too():
    for assignment in ("data.sizes=[[64, 100000]]", "teacher.guidance_interval=[0, 2]", "optimisation.betas=[0.9, 1]"):
        with pytest.raises(UsageError):
            resolve("flux-dev", None, [assignment], {})


COMMANDS = ["distill", "sample", "eval", "export", "inspect_policy"]
# The value is a preset's, whose schema ends it.
BY_THE_SCHEMA = {"--nfe", "--components", "--iterations", "--batch-size", "--learning-rate", "--seed", "--limit"}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_number_of_the_command_line_is_without_end(cli, command):
    from importlib import import_module

    module = import_module(f"piflow_cli.commands.{command}")
    hints = get_type_hints(getattr(module, command), include_extras=True)
    tried = []
    for hint in hints.values():
        kind, option = getattr(hint, "__origin__", None), next(iter(getattr(hint, "__metadata__", ())), None)
        names = (
            ()
            if option is None
            else (option.default, *(option.param_decls or ()))
            if isinstance(option, typer.models.OptionInfo)
            else ()
        )
        if kind in (int, int | None, float | None):
            name = next(name for name in names if isinstance(name, str))
            tried.append(name)
            if name in BY_THE_SCHEMA and command == "distill":
                outcome = cli("distill", "--teacher", "digits", name, "9999999999999999999999", "--dry-run")
            else:
                outcome = cli(command.replace("_", "-"), "x", name, "9999999999999999999999")
            assert outcome.code == 2, name
            assert name in outcome.err or "must be" in outcome.err, outcome.err
            assert "there is no student" not in outcome.err, name
    assert tried
