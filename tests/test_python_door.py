"""The commands as functions: each example of their docstrings, the same pictures and numbers as the commands, errors
instead of exits, and a process that is left as it was."""

from __future__ import annotations

import doctest
import errno
import inspect
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import piflow_cli as piflow
from piflow_cli.evaluation.request import EvalRequest
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.inspection.request import InspectRequest
from piflow_cli.sampling.request import SampleRequest

FUNCTIONS = ("list_teachers", "distill", "load_student", "sample", "evaluate", "inspect", "export")
RUN = "runs/tiny"
SHORT = {"optimisation.iterations": 2, "policy.nfe": 2}


def example(name: str) -> str:
    """The example in a function's docstring, run where the process is; returns what went wrong."""
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(piflow, name), name, globs={})
    assert test.examples
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    return "".join(said)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """The folder that all tests are in."""
    folder = tmp_path_factory.mktemp("door")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def short(place) -> None:
    """The run of distill's own example."""
    assert example("distill") == ""


@pytest.fixture(scope="module")
def tiny(place, tiny_teacher) -> Path:
    """A run that takes no time, of a teacher of 4x4 pictures with three classes."""
    shutil.copyfile(tiny_teacher, "tiny.yaml")
    return piflow.distill("tiny.yaml", RUN, settings=SHORT, device="cpu")


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "distill"])
def test_the_example_of_each_function_runs(short, name: str) -> None:
    assert example(name) == ""


def test_runs_of_one_process_compute_each_in_its_own_precision(tiny, tmp_path) -> None:
    from accelerate import Accelerator

    own = Accelerator(cpu=True)
    for precision in ("fp32", "bf16", "fp32"):
        settings = SHORT | {"optimisation.precision": precision}
        run = piflow.distill("tiny.yaml", tmp_path / precision, settings=settings, device="cpu")
        assert (run / "adapter").is_dir()
    assert own.mixed_precision == "no"


def test_the_import_is_cheap_and_names_what_there_is() -> None:
    program = (
        "import sys, piflow_cli as piflow; assert set(piflow.__all__) <= set(dir(piflow));"
        "piflow.list_teachers(); piflow.UsageError; print({'torch', 'numpy', 'diffusers', 'typer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
    assert {*FUNCTIONS, "UsageError", "RunError"} < set(piflow.__all__)
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        piflow.distil  # noqa: B018


def usual(field: Field) -> object:
    return None if field.default is MISSING else field.default


@pytest.mark.parametrize(
    ("function", "request_class", "own", "left_out"),
    [
        # What is kept is for people who look into a folder; a picture in memory has its recipe.
        (piflow.sample, SampleRequest, {"device", "output"}, {"grid", "metadata"}),
        # A program holds numbers to limits of its own.
        (piflow.evaluate, EvalRequest, set(), {"limits"}),
        (piflow.inspect, InspectRequest, set(), set()),
        (piflow.export, ExportRequest, set(), set()),
    ],
)
def test_a_function_takes_what_its_request_has_with_the_same_defaults(
    function: Callable, request_class: type, own: set[str], left_out: set[str]
) -> None:
    taken = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    known = {field.name: usual(field) for field in fields(request_class)}
    assert taken.keys() - known.keys() <= {"console", *own}
    assert known.keys() - taken.keys() == left_out
    for name in (taken.keys() & known.keys()) - own:
        assert taken[name] in (known[name], inspect.Parameter.empty), name


def test_pictures_and_numbers_are_those_of_the_commands(tiny, cli) -> None:
    options = ["--seeds", "3,8", "--labels", "1,2", "--steps", "1", "--device", "cpu", "--quiet"]
    assert cli("sample", RUN, *options, "--output", "told").code == 0
    images = piflow.sample(RUN, seeds=np.array([3, 8]), labels=(1, 2), steps=1, device="cpu")
    for seed, image in zip((3, 8), images, strict=True):
        with Image.open(f"told/{seed:06d}.png") as told:
            assert np.array_equal(np.asarray(image), np.asarray(told)) and image.info["piflow"] == told.info["piflow"]
    measured = ["--metrics", "alignment", "--num-images", "4", "--fine-steps", "2", "--device", "cpu"]
    told = json.loads(cli("eval", RUN, *measured, "--json").out)
    found = piflow.evaluate(RUN, metrics=["alignment"], num_images=4, fine_steps=2, device="cpu")
    assert json.loads(json.dumps(found["results"])) == told["results"]
    assert not {"report", "numbers"} & found.keys()


def test_a_student_in_memory_makes_the_pictures_of_its_file(tiny) -> None:
    student = piflow.load_student(RUN, device="cpu")
    options = {"seeds": [5, 6], "temperature": 0.5, "device": "cpu"}
    for one, other in zip(piflow.sample(student, **options), piflow.sample(RUN, **options), strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert json.loads(piflow.sample(student, seeds=[0])[0].info["piflow"])["student"] == "a student of tiny"
    with pytest.raises(piflow.UsageError, match="base: settings of a student that is still to be loaded"):
        piflow.sample(student, base="elsewhere")


def test_a_folder_keeps_what_was_made(tiny, tmp_path, monkeypatch) -> None:
    (image,) = piflow.sample(RUN, seeds=[1], output=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000001.png", "grid.png"}
    assert image.size == (4, 4)
    report = piflow.evaluate(RUN, metrics="speed", num_images=4, output=tmp_path / "report")
    assert report["report"].is_file() and report["report"].parent == tmp_path / "report"

    def written(students: list[object], folder: Path) -> list[Path]:
        (folder / "policy.html").write_text("drawn in seconds")
        return [folder / "policy.html"]

    monkeypatch.setattr("piflow_cli.inspection.inspect.write_report", written)
    found = piflow.inspect(RUN, seeds=[0], output=tmp_path / "seen")
    assert all(path.is_file() for path in found["files"]) and found["files"][0].parent == tmp_path / "seen"


WRONG = [
    (lambda: piflow.distill("digit"), "no teacher is named 'digit'"),
    (lambda: piflow.distill("digits", "o", settings={"policy.nfe": 0, "optimisation.iteration": 1}), "policy.nfe"),
    (lambda: piflow.distill("digits", "o", settings={"policy.nfe": 0, "optimisation.iteration": 1}), "iterations"),
    (lambda: piflow.distill("digits", "o", config="nowhere.yaml"), "nowhere.yaml"),
    (lambda: piflow.distill("digits", "o", settings={"data": "nowhere.safetensors"}), "no pictures at nowhere"),
    (lambda: piflow.distill("digits", "o", device="gpu"), "'gpu' is not a device"),
    (lambda: piflow.load_student("nowhere"), "no student at nowhere"),
    (lambda: piflow.load_student(RUN, teacher="flux-dev"), "was trained for the teacher tiny"),
    (lambda: piflow.load_student(RUN, base="elsewhere"), "brings all of its own"),
    (lambda: piflow.load_student(RUN, dtype=torch.bfloat16), "of a base below adapters"),
    (lambda: piflow.load_student(RUN, device="gpu"), "'gpu' is not a device"),
    (lambda: piflow.sample(), "neither a student nor a teacher"),
    (lambda: piflow.sample(RUN, "a fox"), "class labels, not text"),
    (lambda: piflow.sample(RUN, seeds=[]), "seeds names none"),
    (lambda: piflow.sample(RUN, seeds=[4, 4]), "seeds names 4 twice"),
    (lambda: piflow.sample(RUN, labels=[3]), "label 3 is out of range"),
    (lambda: piflow.sample(RUN, labels=[-1]), "labels must be at least 0, not -1"),
    (lambda: piflow.sample(RUN, steps=0), "steps must be at least 1"),
    (lambda: piflow.sample(RUN, steps=2.5), "steps must be a whole number"),
    (lambda: piflow.sample(RUN, temperature=2), "temperature=2: not auto"),
    (lambda: piflow.sample(RUN, temperature="warm"), "temperature warm: not auto"),
    (lambda: piflow.sample(RUN, substeps=0), "substeps must be at least 1"),
    (lambda: piflow.sample(RUN, batch_size=0), "batch_size must be at least 1"),
    (lambda: piflow.sample(RUN, stochastic=-1), "stochastic -1"),
    (lambda: piflow.sample(RUN, offload="away"), "offload must be one of none, model"),
    (lambda: piflow.sample(RUN, steps=0, shift=-1), "2 faults"),
    (lambda: piflow.evaluate(), "neither a student nor images"),
    (lambda: piflow.evaluate(RUN, metrics=["fod"]), "there is no metric 'fod'"),
    (lambda: piflow.evaluate(RUN, protocol="slow"), "'slow' is no protocol"),
    (lambda: piflow.evaluate(RUN, steps=[0]), "steps must be at least 1"),
    (lambda: piflow.evaluate(RUN, save_images=True), "save_images wants a folder"),
    (lambda: piflow.inspect([]), "0 students are named"),
    (lambda: piflow.inspect(RUN, at=0), "at must be at least 1"),
    (lambda: piflow.inspect(RUN, at=3), "takes 2 network evaluations"),
    (lambda: piflow.inspect(RUN, position=(-1, 0)), "outside the state"),
    (lambda: piflow.export(RUN, "gguf"), "no such format"),
    (lambda: piflow.export(RUN, "adapter", rank=0), "rank must be at least 1"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_is_wrong_is_a_usage_error_that_says_so(tiny, call: Callable[[], object], message: str) -> None:
    with pytest.raises(piflow.UsageError) as caught:
        call()
    assert message in caught.value.message


def test_exceptions_that_commands_explain_are_explained_here(tiny, monkeypatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a.png")

    monkeypatch.setattr("piflow_cli.sampling.sample.write_bytes", full)
    with pytest.raises(piflow.RunError, match=r"the disk is full: a\.png"):
        piflow.sample(RUN, seeds=[0])
    # A fault of the program stays what Python calls it.
    monkeypatch.setattr("piflow_cli.sampling.sample.write_bytes", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        piflow.sample(RUN, seeds=[0])


def state() -> dict[str, object]:
    """What a library must leave alone."""
    names = ("piflow", "bitsandbytes", "torch.distributed.elastic")
    loggers = [logging.getLogger(), *map(logging.getLogger, names)]
    return {
        "log": [(logger.handlers[:], logger.level, logger.propagate, logger.filters[:]) for logger in loggers],
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "streams": (sys.stdout, sys.stderr, sys.excepthook),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "numbers": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()),
        "path": sys.path[:],
    }


CALLS: dict[str, Callable[[Path], object]] = {
    "distill": lambda path: piflow.distill(Path("tiny.yaml"), path, settings=SHORT, device="cpu"),
    "load_student": lambda path: piflow.load_student(RUN),
    "sample": lambda path: piflow.sample(RUN, seeds=[0], device="cpu", output=path),
    "evaluate": lambda path: piflow.evaluate(
        RUN,
        num_images=4,
        metrics="alignment,speed",
        fine_steps=2,
        device="cpu",
        cache=path / "cache",
        output=path / "report",
    ),
    "inspect": lambda path: piflow.inspect(RUN, seeds=[0], device="cpu"),
    "export": lambda path: piflow.export(RUN, "pipeline", path, device="cpu"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_the_process_as_it_was_and_prints_nothing(tiny, tmp_path, monkeypatch, capfd, name: str) -> None:
    own = logging.NullHandler()
    monkeypatch.setattr(logging.getLogger("piflow"), "handlers", [own])
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    # Other libraries set themselves up when they are imported.
    CALLS[name](tmp_path / "first")
    before = state()
    capfd.readouterr()
    CALLS[name](tmp_path / "second")
    assert capfd.readouterr() == ("", "")
    assert state() == before
    assert logging.getLogger("piflow").handlers == [own]


def test_a_console_that_is_given_is_spoken_to(tiny, tmp_path, capsys) -> None:
    piflow.distill("tiny.yaml", tmp_path / "run", settings=SHORT, device="cpu", console=piflow.Console())
    captured = capsys.readouterr()
    assert "optimisation" in captured.err and captured.out == ""


NUMBERS = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=3), st.booleans())


@given(
    st.fixed_dictionaries(
        dict.fromkeys(("steps", "shift", "substeps", "temperature", "guidance", "batch_size"), NUMBERS)
    ),
    st.lists(st.integers(-2, 9), max_size=4).map(tuple),
)
def test_a_request_of_anything_is_a_request_or_a_usage_error(values: dict[str, object], seeds: tuple[int, ...]) -> None:
    request = SampleRequest(student="s", seeds=seeds, **values)
    try:
        request.check()
    except piflow.UsageError:
        return
    assert seeds and len(set(seeds)) == len(seeds) and min(seeds) >= 0
    for name in ("steps", "substeps", "batch_size"):
        assert values[name] is None or (type(values[name]) is int and values[name] >= 1)
    assert values["temperature"] in (None, "auto") or 0 < values["temperature"] <= 1
    assert values["guidance"] is None or 1 <= values["guidance"] < float("inf")
