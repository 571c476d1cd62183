"""What the functions of the door take, and what they say to anything else: in the words of Python, all at once."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import piflow_cli as piflow
from piflow_cli.door.in_python import translated

NAMES = ("distill", "load_student", "sample", "evaluate", "inspect", "export")


class Anything:
    """An object that is nothing of what any argument takes."""

    def __repr__(self) -> str:
        return "<anything>"


def arguments(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(piflow, name)).parameters)


def refused(name: str, **given: object) -> str:
    """What ``name`` says to these arguments, beside one for each that it needs."""
    needed = {key: "nowhere" for key, value in arguments(name).items() if value.default is inspect.Parameter.empty}
    with pytest.raises(piflow.UsageError) as caught:
        getattr(piflow, name)(**needed | given)
    # A whole command of the shell stays one.
    assert "--" not in re.sub(r"piflow \S+ .*", "", caught.value.hint or "")
    return caught.value.message


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name in NAMES for argument in arguments(name)])
def test_every_argument_refuses_what_it_does_not_take_and_says_what_it_takes(name: str, argument: str) -> None:
    said = refused(name, **{argument: Anything()})
    assert said.startswith(f"{argument} must be ") and said.endswith(", not <anything>")


WRONG = [
    ("sample", "seeds", "0-3", "whole numbers, like range(4) or [0, 7]"),
    ("sample", "seeds", 3, "whole numbers"),
    ("sample", "seeds", [0.5], "whole numbers"),
    ("sample", "seeds", [True], "whole numbers"),
    ("evaluate", "labels", ["a"], "whole numbers"),
    ("evaluate", "steps", 4, "whole numbers"),
    ("evaluate", "num_images", "8", "a whole number"),
    ("evaluate", "save_images", "yes", "True or False"),
    ("inspect", "position", (1,), "a column and a row"),
    ("inspect", "position", (1, 2, 3, 4), "a column and a row"),
    ("inspect", "students", None, "a path or a name, or several"),
    ("inspect", "students", ["a", None], "a path or a name, or several"),
    ("load_student", "student", None, "a path or a name"),
    ("load_student", "dtype", "bf16", "a dtype, like torch.bfloat16"),
    ("load_student", "device", 0, "auto, cpu, cuda or cuda:N"),
    ("distill", "settings", ["policy.nfe"], "a dictionary of settings"),
    ("distill", "settings", {1: 2}, "a dictionary of settings"),
    ("distill", "resume", None, "True or False"),
    ("sample", "loras", "style.safetensors", "pairs of a path and a scale"),
    ("sample", "loras", [("style.safetensors", "1")], "pairs of a path and a scale"),
    ("sample", "temperature", [1], "a number or 'auto'"),
    ("sample", "shift", "3", "a number"),
    ("sample", "prompts", 1, "a text, or several"),
    ("export", "rank", 4.0, "a whole number"),
    ("export", "console", print, "a Console"),
]


@pytest.mark.parametrize(("name", "argument", "value", "words"), WRONG)
def test_likely_slips_are_told_what_is_taken(name: str, argument: str, value: object, words: str) -> None:
    assert f"{argument} must be {words}" in refused(name, **{argument: value})


def test_all_wrong_arguments_are_named_at_once() -> None:
    said = refused("sample", seeds=3, labels=["a"], shift="x")
    assert said.splitlines()[0] == "3 faults:"
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["seeds", "labels", "shift"]


def test_a_call_that_does_not_fit_is_a_usage_error() -> None:
    assert refused("evaluate", num_image=3) == "evaluate takes no argument num_image; did you mean num_images?"
    for call in (piflow.inspect, piflow.load_student, piflow.distill):
        with pytest.raises(piflow.UsageError, match="missing a required argument"):
            call()
    with pytest.raises(piflow.UsageError, match="too many positional"):
        piflow.sample("a", "b", "c")


@pytest.mark.parametrize(
    "seeds", [range(2), [0, 1], (0, 1), iter([0, 1]), np.array([0, 1]), torch.tensor([0, 1]), {0: "a", 1: "b"}]
)
def test_numbers_come_in_many_forms(seeds: object) -> None:
    # Read, and the next thing that is wrong is the student.
    assert "no student at nowhere" in refused("sample", student="nowhere", seeds=seeds, shift=np.float32(3))


def test_a_tilde_is_the_home_folder_in_places_and_stays_in_texts(tmp_path, monkeypatch) -> None:
    from piflow_cli.door import arguments as kinds

    def read(kind: object, given: object) -> object:
        return kind.__metadata__[0].read(given)

    monkeypatch.setenv("HOME", str(tmp_path))
    home = f"{tmp_path}/x"
    assert read(kinds.FileOrFolder, "~/x") == Path(home) and read(kinds.Source, Path("~/x")) == home
    assert read(kinds.Sources, ["~/x", "owner/~/x", "digits"]) == (home, "owner/~/x", "digits")
    assert read(kinds.Loras, [("~/x", 1)]) == ((home, 1),) and read(kinds.Texts, "~/x") == ("~/x",)
    assert "there is no such home folder" in refused("export", output="~nobody-of-that-name/x")


@pytest.mark.parametrize(
    "value", [np.int64(5000), np.array([5000]), torch.tensor(5000), np.float32(5000.5), np.bool_(True), Path("5000")]
)
def test_settings_take_the_numbers_of_numpy_and_torch(value: object) -> None:
    # The refusal shows what was read.
    plain = str(value) if isinstance(value, Path) else value.tolist()
    said = refused("distill", teacher="digits", settings={"policy.nfe": value})
    assert said == refused("distill", teacher="digits", settings={"policy.nfe": plain})


def test_a_setting_of_none_is_not_given() -> None:
    said = refused("distill", teacher="flux-dev", settings={"data": None, "policy.nfe": 0})
    assert said == refused("distill", teacher="flux-dev", settings={"policy.nfe": 0}) and "None" not in said


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_devices_come_in_two_forms(device: object) -> None:
    for name in ("load_student", "sample"):
        assert "no student at nowhere" in refused(name, student=Path("nowhere"), device=device)


def test_help_and_editors_see_every_argument() -> None:
    seen = arguments("evaluate")
    assert seen["num_images"].default is None and seen["trust_weights"].default is False
    assert "options" not in seen and all(value.annotation is not value.empty for value in seen.values())
    assert "Annotated" not in str(inspect.signature(piflow.sample))


def test_hints_are_to_be_typed_in_python() -> None:
    with pytest.raises(piflow.UsageError) as caught:
        piflow.sample("nowhere", seeds=[])
    assert caught.value.hint == "help(piflow.sample) lists what there is"
    assert str(caught.value) == caught.value.message == "seeds names none"


TOLD = [
    ("sample", "name fewer: --seeds 0-15", "name fewer: seeds=range(16)"),
    ("sample", "--seeds 0-3,7 or --labels 3,5", "seeds=[*range(0, 4), 7] or labels=[3, 5]"),
    ("sample", "type --temperature auto", 'give temperature="auto"'),
    ("sample", "type --stochastic 0, 1 or inf", "give stochastic=0, 1 or inf"),
    ("sample", "--lora style.safetensors:0.8", 'loras=[("style.safetensors", 0.8)]'),
    ("sample", "encode anew: --base PATH", "encode anew: base=PATH"),
    ("sample", "type --nfe 4", "type --nfe 4"),
    ("distill", "--set policy.nfe=0: must be at least 1", 'settings={"policy.nfe": 0}: must be at least 1'),
    ("distill", "--set teacher.base=preset:x: is not there", "settings={\"teacher.base\": 'preset:x'}: is not there"),
    ("sample", "leave --offload-base out", "leave --offload-base out"),
    ("sample", "name a student: piflow sample RUN --lora PATH", "name a student: piflow sample RUN --lora PATH"),
    ("evaluate", "--save-images wants a folder: --output DIR", "save_images wants a folder: output=DIR"),
    ("evaluate", "--num-images N; piflow eval --help", "num_images=N; help(piflow.evaluate)"),
    ("evaluate", "--prompts FILE, or --quick", 'prompts_from=FILE, or protocol="quick"'),
    ("evaluate", "--extractor inception", 'extractors=["inception"]'),
    ("evaluate", "choose another: --extractor NAME", "choose another: extractors=[NAME]"),
    ("evaluate", "leave it out of --metrics, or --reference data", 'leave it out of metrics, or reference="data"'),
    ("evaluate", "--metrics fid needs a student", "metrics fid needs a student"),
    ("inspect", "columns run from 0 to 7: --slice 3,4", "columns run from 0 to 7: position=[3, 4]"),
    ("inspect", "replace it with --overwrite", "replace it with overwrite=True"),
    ("export", "leave --rank out", "leave rank out"),
    ("export", "choose --format adapter or pipeline", 'choose format="adapter" or pipeline'),
    ("export", "leave --no-base out, or --prompt out", "leave with_base=False out, or prompts out"),
    ("sample", "leave --offload out, or --device cuda:1", 'leave offload out, or device="cuda:1"'),
    ("sample", "name one: --lora PATH[:SCALE]", "name one: loras=[(PATH, SCALE)]"),
    ("load_student", "choose one: --subfolder sub/folder", 'choose one: subfolder="sub/folder"'),
    ("distill", "name others: --data SOURCE", 'name others: settings={"data": SOURCE}'),
    ("distill", "--set optimisation.precision=fp32", "settings={\"optimisation.precision\": 'fp32'}"),
    ("distill", "--set policy.nfe=4 or --no-resume", 'settings={"policy.nfe": 4} or resume=False'),
    ("distill", "another base: --base PATH", 'another base: settings={"teacher.base": PATH}'),
    ("distill", "piflow distill --list-teachers shows them", "piflow.list_teachers() shows them"),
    ("distill", "run the same command again", "make the same call again"),
]


@pytest.mark.parametrize(("name", "text", "python"), TOLD)
def test_options_in_a_text_become_arguments_of_the_call(name: str, text: str, python: str) -> None:
    assert translated(text, arguments(name)) == python


@given(st.text(max_size=60))
def test_a_text_without_options_stays(text: str) -> None:
    assert "--" in text or "piflow" in text or translated(text, arguments("sample")) == text


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5, unique=True))
def test_ranges_become_the_same_numbers(numbers: list[int]) -> None:
    python = translated(f"--seeds {','.join(map(str, numbers))}", arguments("sample"))
    assert list(eval(python.removeprefix("seeds="))) == numbers
    first, last = min(numbers), max(numbers)
    python = translated(f"--seeds {first}-{last}", arguments("sample"))
    assert list(eval(python.removeprefix("seeds="))) == list(range(first, last + 1))


def test_libraries_print_nothing_when_they_are_first_imported(tmp_path) -> None:
    """bitsandbytes, where it is there, warns of kernels that a CPU could have too."""
    program = (
        "import logging, piflow_cli as piflow;"
        "before = logging.getLogger('bitsandbytes').level, logging.getLogger().handlers[:];"
        "piflow.sample(teacher='digits', seeds=range(2), steps=1, device='cpu');"
        "assert before == (logging.getLogger('bitsandbytes').level, logging.getLogger().handlers[:])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
