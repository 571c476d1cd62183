from __future__ import annotations

import io
import json
import logging
import math
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_process import piflow
from PIL import Image

from piflow_cli.console import (
    Console,
    dumps,
    format_pairs,
    format_table,
    plain,
)
from piflow_cli.presets.resolve import load
from piflow_cli.teachers.folders import config_folder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_data_goes_to_stdout_and_news_to_stderr(capsys):
    console = Console()
    console.say("news")
    console.warn("careful")
    console.result({"a": 1}, "the text")
    captured = capsys.readouterr()
    assert captured.out == "the text\n"
    assert captured.err == "news\nWarning: careful\n"


def test_quiet_leaves_only_data(capsys):
    console = Console(quiet=True)
    console.say("news")
    console.warn("careful")
    console.result({"a": 1}, "the text")
    with console.progress(total=3) as bar:
        bar.update(3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("the text\n", "")


def test_json_makes_both_streams_parsable(capsys):
    console = Console(json=True)
    console.say("news")
    console.warn("careful")
    console.result({"loss": 0.5, "output": Path("runs/digits")}, "the text")
    with console.progress(total=3) as bar:
        bar.update(3)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"loss": 0.5, "output": str(Path("runs/digits"))}
    assert [json.loads(line) for line in captured.err.splitlines()] == [{"warning": "careful"}]


def test_a_warning_is_said_once_per_text(capsys):
    console = Console()
    for text in ("one", "two", "one"):
        console.warn(text)
    assert capsys.readouterr().err == "Warning: one\nWarning: two\n"


def test_a_table_is_aligned_text_or_a_list_of_objects(capsys):
    rows = [{"name": "digits", "nfe": 1, "x": 0}, {"name": "a", "nfe": 128, "x": 0}]
    Console().table(rows, ["name", "nfe"])
    assert capsys.readouterr().out == "NAME    NFE\ndigits  1\na       128\n"
    Console(json=True).table(rows, ["name", "nfe"])
    assert json.loads(capsys.readouterr().out) == [{"name": "digits", "nfe": 1}, {"name": "a", "nfe": 128}]


def test_a_table_without_rows_still_names_its_columns():
    assert format_table([], ["name"]) == "NAME"


def test_pairs_align_values_and_indent_sections():
    text = format_pairs({"loss": 0.25, "final_step_scale": 1, "policy": {"kind": "gm", "nfe": 1}, "done": True})
    assert text.splitlines() == [
        "loss              0.25",
        "final step scale  1",
        "policy",
        "  kind  gm",
        "  nfe   1",
        "done              yes",
    ]


def test_a_long_list_shows_its_ends_and_its_length():
    assert format_pairs({"images": [f"{i}.png" for i in range(64)]}) == "images  0.png, ..., 63.png (64)"
    assert format_pairs({"betas": [0.9, 0.95, 1, 2]}) == "betas  0.9, 0.95, 1, 2"


def test_a_line_is_written_above_a_live_bar_and_not_into_it(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    console = Console()
    with console.progress(total=10, initial=4, description="distilling") as bar:
        bar.update(1)
        console.say("saved")
        assert (bar.n, bar.total, bar.mininterval) == (5, 10, 0.5)
    assert "\rsaved\n" in stream.getvalue().replace(" ", "")
    assert "distilling" in stream.getvalue()


def test_a_log_file_gets_whole_lines_in_place_of_a_bar(capsys):
    console = Console()
    with console.progress(total=1000, initial=400, description="distilling") as bar:
        assert (bar.mininterval, bar.miniters, bar.disable) == (10.0, 10, False)
        bar.set_postfix(loss="0.41", refresh=False)
        bar.mininterval = 0
        for _ in range(30):
            console.say("saved")
            bar.update()
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert "\r" not in said and lines.count("saved") == 30
    shown = [line for line in lines if line != "saved"]
    assert [line.split(" [")[0] for line in shown] == [f"distilling: {n // 10}% {n}/1000" for n in (410, 420, 430, 430)]
    assert all(line.endswith("loss=0.41]") for line in shown)


def test_lines_of_progress_come_at_most_every_ten_seconds(capsys):
    with Console().progress(total=1000, description="sampling") as bar:
        bar.update(999)
    assert capsys.readouterr().err.startswith("sampling: 100% 999/1000 [")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (numpy.float32(0.5), 0.5),
        (numpy.float64("nan"), None),
        (numpy.arange(3), [0, 1, 2]),
        ({2, 1}, [1, 2]),
        ({1: (True, None)}, {"1": [True, None]}),
        (Path("a"), "a"),
    ],
)
def test_values_that_json_does_not_know(value, expected):
    assert json.loads(dumps({"value": value})) == {"value": expected}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_whatever_is_printed_is_strict_json_and_plain_is_its_content(value):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(dumps(value), parse_constant=refuse) == plain(value)


def test_libraries_keep_off_the_screen_with_json(tmp_path):
    """diffusers warns of a key in the published config of Qwen-Image, which nobody here can help."""
    published = config_folder(load("qwen-image").teacher) / "transformer" / "config.json"
    config = tmp_path / "config.json"
    # A layer says what sixty say.
    config.write_text(json.dumps(json.loads(published.read_text()) | {"num_layers": 1, "pooled_projection_dim": 768}))
    command = piflow("distill", "--teacher", "qwen-image", "--base", str(config), "--dry-run", "--json")
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout)["teacher"]["name"] == "qwen-image"


def test_the_log_is_said_while_a_command_listens_and_no_other_console_takes_it(capsys):
    logger = logging.getLogger("piflow")
    before = logger.handlers[:], logger.level, logger.propagate, warnings.filters[:]
    console = Console()
    logging.getLogger("piflow.training").warning("to nobody")
    with console.listening():
        Console(quiet=True)
        logging.getLogger("piflow.training").warning("careful")
        logging.getLogger("piflow.kernels").info("news")
    logging.getLogger("piflow.training").warning("to nobody")
    assert capsys.readouterr().err == "Warning: careful\nnews\n"
    assert (logger.handlers, logger.level, logger.propagate, warnings.filters) == before


def test_pillow_does_not_warn_of_large_pictures_in_a_command(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Console().listening():
            Image._decompression_bomb_check((2, 2))
        assert not caught
        Image._decompression_bomb_check((2, 2))
        assert len(caught) == 1


def test_diffusers_does_not_speak_of_its_arguments_names_in_a_command():
    told = "`torch_dtype` is deprecated and will be removed in version 1.0.0. Please use `dtype` instead."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Console().listening():
            warnings.warn(told, FutureWarning, stacklevel=2)
        assert not caught
        warnings.warn(told, FutureWarning, stacklevel=2)
        assert len(caught) == 1


@pytest.mark.parametrize("screen", [7, 12, 20, 30, 80])
def test_a_table_folds_by_its_columns_at_any_width(screen: int) -> None:
    names = ["metric", *(f"model-{number}" for number in range(6))]
    rows = [{name: f"{row}{place}" for place, name in enumerate(names)} for row in range(3)]
    blocks = [block.splitlines() for block in format_table(rows, names, screen).split("\n\n")]
    # Every table has the first column and another one, and those that hold more are no wider than the screen.
    shown = [block[0].split() for block in blocks]
    assert [name for head in shown for name in head[1:]] == [name.upper() for name in names[1:]]
    assert all(head[0] == "METRIC" and len(head) > 1 and len(block) == 4 for head, block in zip(shown, blocks))
    assert all(len(line) <= screen for head, block in zip(shown, blocks) if len(head) > 2 for line in block)
    # No two tables could have been one.
    for first, second in pairwise(blocks):
        assert max(map(len, first)) + 2 + len("model-0") > screen and second
    assert format_table(rows, names, math.inf) == format_table(rows, names)
