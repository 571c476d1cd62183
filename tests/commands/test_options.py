from __future__ import annotations

import math
from inspect import signature
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.app import app, program
from piflow_cli.commands.options import (
    LARGEST_VALUE,
    OF_PATHS,
    check_device,
    complete_teacher,
    parse_guidance,
    parse_lora,
    parse_ranges,
    parse_stochastic,
    parse_temperature,
    with_read_paths,
)
from piflow_cli.errors import UsageError


@st.composite
def written_ranges(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A text and the numbers it stands for: disjoint ranges in any order, single numbers written either way."""
    bounds = sorted(draw(st.sets(st.integers(0, 400), min_size=2, max_size=12)))
    pieces = draw(st.permutations([range(low, high) for low, high in pairwise(bounds)][::2]))
    parts, values = [], []
    for piece in pieces:
        values += piece
        single = len(piece) == 1 and draw(st.booleans())
        space = draw(st.sampled_from(["", " "]))
        parts.append(space + (str(piece[0]) if single else f"{piece[0]}{space}-{space}{piece[-1]}") + space)
    return ",".join(parts), values


@given(written_ranges())
def test_ranges_are_the_numbers_they_were_written_from(case):
    text, values = case
    assert list(parse_ranges(text, "--seeds")) == values


@given(st.integers(0, LARGEST_VALUE))
def test_every_seed_that_torch_takes_can_be_written(seed):
    assert parse_ranges(str(seed), "--seeds") == (seed,)


@given(st.integers(0, 999), st.integers(0, 999))
def test_a_range_runs_forward_or_says_how_to_mend_it(first, last):
    text = f"5000,{first}-{last}"
    if first <= last:
        assert parse_ranges(text, "--seeds")[1:] == tuple(range(first, last + 1))
        return
    with pytest.raises(UsageError, match="runs backwards") as caught:
        parse_ranges(text, "--seeds")
    mended = caught.value.hint.removeprefix("type --seeds ")
    assert parse_ranges(mended, "--seeds")[1:] == tuple(range(last, first + 1))


def test_the_range_itself_is_mended_and_not_a_part_of_another():
    with pytest.raises(UsageError, match="the range 3-1 runs backwards") as caught:
        parse_ranges("13-15,3-1", "--seeds")
    assert caught.value.hint == "type --seeds 13-15,1-3"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("5-2", "the range 5-2 runs backwards"),
        ("", "an empty item"),
        ("1,,2", "an empty item"),
        ("-5", "'-5' is neither a number nor a range"),
        ("1-2-3", "'1-2-3' is neither"),
        ("a", "'a' is neither"),
        ("1.5", "'1.5' is neither"),
        ("٣", "is neither"),
        ("0-3,2", "2 comes twice"),
        ("0-99999999999", "more than 10,000,000 numbers"),
        (str(LARGEST_VALUE + 1), "too large"),
        ("9" * 5000, "too large"),
    ],
)
def test_what_is_no_list_of_numbers_is_refused_with_its_reason(text, complaint):
    with pytest.raises(UsageError, match="--labels") as caught:
        parse_ranges(text, "--labels")
    assert complaint in caught.value.message
    assert caught.value.hint and "\n" not in caught.value.message


@given(st.text(max_size=12))
def test_any_text_is_numbers_or_a_usage_error(text):
    try:
        values = parse_ranges(text, "--seeds")
    except UsageError:
        return
    assert values and len(set(values)) == len(values) and min(values) >= 0


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("0.3", 0.3), ("1", 1.0), ("1e-3", 0.001)])
def test_temperatures(text, value):
    assert parse_temperature(text) == value


@pytest.mark.parametrize("text", ["0", "-0.1", "1.1", "nan", "inf", "hot", ""])
def test_temperatures_outside_their_range_are_refused(text):
    with pytest.raises(UsageError, match="at most 1"):
        parse_temperature(text)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("0.5", 0.5), ("inf", math.inf)])
def test_stochasticity(text, value):
    assert parse_stochastic(text) == value


@pytest.mark.parametrize("text", ["0.9", "nan", "inf", "much", ""])
def test_guidance_below_one_is_refused(text):
    with pytest.raises(UsageError, match="at least 1"):
        parse_guidance(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a:0", ("a", 0.0)),
        ("a:-0.5", ("a", -0.5)),
        ("C:/a", ("C:/a", 1.0)),
        ("a:b:2", ("a:b", 2.0)),
    ],
)
def test_a_lora_is_a_path_and_a_scale(text, expected):
    assert parse_lora(text) == expected


@pytest.mark.parametrize("text", ["", ":2", "a:inf"])
def test_what_is_no_lora_is_refused(text):
    with pytest.raises(UsageError, match="--lora"):
        parse_lora(text)


@pytest.mark.parametrize("text", ["-1", "nan", "-inf", "much"])
def test_stochasticity_below_zero_is_refused(text):
    with pytest.raises(UsageError, match="at least 0"):
        parse_stochastic(text)


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices(device):
    assert check_device(device) == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "CUDA", "cuda:0\n"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(UsageError, match="no such kind of device"):
        check_device(device)


def test_teachers_complete_from_what_was_typed():
    assert "digits" in complete_teacher("")
    assert complete_teacher("digi") == ["digits"]
    assert complete_teacher("no such teacher") == []


COMMANDS = program().commands
# Each option whose value is a path, or may be one.
PATHS = [
    (name, option.opts[0])
    for name, command in COMMANDS.items()
    for option in command.params
    if option.metavar in OF_PATHS and option.opts[0].startswith("--")
]


def test_every_option_of_a_path_is_known_as_one():
    told = {option for _, option in PATHS}
    assert told == {
        *("--base", "--cache", "--clip", "--compare", "--config", "--data", "--evals", "--fork", "--images"),
        *(
            "--inception-weights",
            "--lora",
            "--output",
            "--prompts",
            "--reference",
            "--save-statistics",
            "--subfolder",
            "--teacher-lora",
            "--vae",
        ),
    }
    functions = [command.callback for command in app.registered_commands]
    options = [option for function in functions for option in signature(function, eval_str=True).parameters.values()]
    paths = [option.annotation for option in options if "pathlib" in str(getattr(option.annotation, "__origin__", ""))]
    typed = {written.__metadata__[0].default for written in paths}
    assert {"--output", "--cache"} < typed <= told


@pytest.mark.parametrize("equals", [False, True])
@pytest.mark.parametrize(("command", "option"), PATHS)
def test_an_empty_path_is_named_by_its_option(cli, training, requests, command, option, equals):
    written = [f"{option}="] if equals else [option, "", "x"]
    outcome = cli(command, *written)
    first, second = outcome.err.splitlines()
    assert (outcome.code, outcome.out) == (2, "")
    assert first == f"Error: {option}: nothing is named, its value is empty"
    assert second.startswith(f"  → name one: {option} ") and not training.runs and not requests


def test_an_empty_prompt_is_no_empty_path(cli, requests):
    assert cli("sample", "runs/a", "", "--quiet").code == 0 and requests[0].prompts == ("",)
    assert cli("sample", "runs/a", "--quiet", "--", "--output", "").code == 0


@pytest.mark.parametrize("written", [["--output=~/x y"], ["--output", "~/x y"]])
def test_the_home_in_a_path_is_read_where_the_shell_has_left_it(cli, requests, tmp_path, monkeypatch, written):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli("sample", "~/run", *written).code == 0
    assert requests[0].output == tmp_path / "home" / "x y"
    assert cli("sample", "x", "--output", "here/~/x").code == 0 and str(requests[1].output) == "here/~/x"
    outcome = cli("sample", "x", *[word.replace("~", "~nobody-of-that-name") for word in written])
    assert (outcome.code, outcome.out) == (2, "") and outcome.err == (
        "Error: ~nobody-of-that-name/x y: there is no such home folder\n  → write the path out, without ~\n"
    )


def test_both_of_two_paths_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    read = with_read_paths(
        COMMANDS["inspect-policy"].params, ["--compare", "~/a", "~/b", "--prompts", "-", "--", "~/c"]
    )
    assert read == ["--compare", f"{tmp_path}/a", f"{tmp_path}/b", "--prompts", "-", "--", "~/c"]


def test_a_path_behind_its_letter_is_read_too(tmp_path, monkeypatch):
    """Typer would make folders of the names =pictures and ~ of them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("-o=~/x", "-o~/x"):
        assert with_read_paths(COMMANDS["sample"].params, ["x", written]) == ["x", f"-o{tmp_path}/x"]
    assert with_read_paths(COMMANDS["sample"].params, ["-o=pictures"]) == ["-opictures"]
    with pytest.raises(UsageError, match="nothing is named"):
        with_read_paths(COMMANDS["sample"].params, ["-o="])
