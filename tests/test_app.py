"""The command line as a user meets it; the library calls behind it are replaced by recorders."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from own_process import piflow

import piflow_cli

HEAVY = {"torch", "numpy", "diffusers", "transformers", "peft", "accelerate", "matplotlib", "yaml"}


# Start-up.


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        ([], HEAVY | {"pydantic"}),
        (["--help"], HEAVY | {"pydantic"}),
        # From 0.29 on Typer itself reads options through pydantic, so it is there whatever this package does.
        (["distill", "--help"], HEAVY),
        (["sample", "--help"], HEAVY),
        (["doctor", "--help"], HEAVY),
        (["--version"], HEAVY),
    ],
)
def test_nothing_heavy_is_imported_before_there_is_work(arguments, heavy):
    program = (
        "import sys; from piflow_cli.app import main\n"
        f"if {arguments!r}: assert main({arguments!r}) == 0\n"
        f"print('HEAVY', sorted({heavy!r} & set(sys.modules)))"
    )
    path = str(Path(piflow_cli.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_module_is_the_command():
    done = subprocess.run(piflow("nonsense"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: No such command 'nonsense'.\n  → piflow --help")


def test_without_arguments_the_help_is_shown_and_what_is_missing_is_said(cli):
    outcome = cli()
    assert (outcome.code, outcome.err) == (2, "Error: no command given\n  → piflow --help lists the commands\n")
    assert outcome.out.split() == cli("--help").out.split()
    assert {"distill", "sample"} <= set(outcome.out.split())


@pytest.mark.parametrize("command", ["distill", "sample", "doctor"])
def test_the_help_ends_with_examples_that_are_not_wrapped(cli, command):
    outcome = cli(command, "--help")
    assert outcome.code == 0
    end = outcome.out[outcome.out.index("Examples") :]
    lines = [line.strip() for line in end.splitlines()[1:]]
    shown = lines[: lines.index("")]
    assert len(shown) >= 3 and all(line.startswith(f"piflow {command} ") for line in shown)


@pytest.mark.parametrize(
    ("command", "panels"),
    [
        ("distill", ["Model", "Policy", "Data", "Optimisation", "Preset", "Output"]),
        ("sample", ["Model", "Sampling", "Output"]),
    ],
)
def test_options_are_grouped_by_theme(cli, command, panels):
    out = cli(command, "--help").out
    places = [out.index(f"╭─ {panel} ─") for panel in panels]
    assert places == sorted(places)


# Versions.


def test_version(cli):
    assert cli("--version").out == f"piflow {piflow_cli.__version__}\n"


@pytest.mark.parametrize("arguments", [("--version", "--json"), ("--json", "--version")])
def test_version_as_json_holds_what_a_bug_report_needs(cli, arguments):
    outcome = cli(*arguments)
    data = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert (data["piflow"], data["python"]) == (piflow_cli.__version__, platform.python_version())
    assert data["torch"].split("+")[0] == version("torch").split("+")[0]
    assert {name: data[name] for name in ("diffusers", "peft", "accelerate")} == {
        name: version(name) for name in ("diffusers", "peft", "accelerate")
    }
    assert {"platform", "cuda", "gpu", "transformers", "triton"} <= set(data)


# Errors.


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["distill"], "no teacher given", "--list-teachers"),
        (["distill", "--teacher", "digts"], "no teacher is named 'digts'", "did you mean digits?"),
        (["distill", "--teacher", "digits", "--nfe", "0"], "--nfe 0: must be at least 1, not 0", "type --nfe 1"),
        (
            ["distill", "--teacher", "digits", "--policy", "dy"],
            "--policy dy: must be gm, dx, dx-poly or momentum, not 'dy'",
            "type --policy gm",
        ),
        (["distill", "--teacher", "digits", "--nfe", "two"], "--nfe two: must be a whole number", "type --nfe 1"),
        (["distill", "--teacher", "digits", "--sed", "1"], "No such option: --sed", "type --seed 1"),
        (["sample", "x", "--nffe", "4"], "No such option: --nffe", "type --steps 4"),
        (["sample", "x", "--nffe=4"], "No such option: --nffe", "type --steps 4"),
        (["distill", "--nffe", "--dry-run"], "No such option: --nffe", "type --nfe 1"),
        (["sample", "x", "--batch_size", "2"], "No such option: --batch_size", "type --batch-size 2"),
        (["sample", "x", "--temp", "0.5"], "No such option: --temp", "type --temperature 0.5"),
        (["sample", "x", "-seeds", "3"], "No such option: -seeds", "type --seeds 3"),
        (["sample", "x", "-output", "pics"], "No such option: -output", "type --output pics"),
        (["sample", "x", "-output=pics"], "No such option: -output", "type --output pics"),
        (["sample", "x", "-overwrite"], "No such option: -overwrite", "type --overwrite"),
        (["sample", "x", "--outptu", "two words"], "No such option: --outptu", "type --output 'two words'"),
        (["sample", "x", "--outptu"], "No such option: --outptu", "type --output DIR"),
        (["sample", "x", "--prompst", "a\nb"], "No such option: --prompst", "type --prompts SOURCE"),
        (["sample", "x", "--quite"], "No such option: --quite", "type --quiet"),
        (["sample", "x", "--colour"], "No such option: --colour", "piflow sample --help"),
        (["sample", "x", "--bad"], "No such option: --bad\n", "piflow sample --help"),
        (["sample", "x", "--quiet=yes"], "--quiet takes no value", "type --quiet"),
        (["distill", "digits"], "unexpected argument: digits", "type --teacher digits"),
        (["distill", "colour"], "unexpected extra argument(s) (colour)", "piflow distill --help"),
        (["doctor", "digits"], "unexpected extra argument(s) (digits)", "piflow doctor --help"),
        (["export", "x"], "--format is not given", "type --format adapter"),
        (["export", "x", "--format"], "--format has no value", "type --format adapter"),
        (["--jsn", "doctor"], "No such option: --jsn", "type --json"),
        (["sampel", "x"], "No such command: sampel", "type piflow sample"),
        (["sample", "x", "--hlep"], "No such option: --hlep", "type --help"),
        (["distill", "--no-resum"], "No such option: --no-resum", "type --no-resume"),
        (["version"], "No such command: version", "type piflow --version"),
        (["distill", "--teacher", "digits/"], "cannot read digits", "name the preset without a slash: digits"),
        (["distill", "--teacher", "FLUX-dev"], "no teacher is named 'FLUX-dev'", "did you mean flux-dev?"),
        (["distill", "--teacher", "digits", "--policy", "DX"], "--policy DX: must be gm, dx", "type --policy dx"),
        (["distill", "--teacher", "digits", "--set", "policy.NFE=2"], "mean policy.nfe?", "type --set policy.nfe=2"),
        (["sam\nple"], r"No such command: sam\nple", "type piflow sample"),
        (["sample", "x", "--se\ned", "0"], r"No such option: --se\ned", "type --seeds 0"),
        (["--quiet", "inspect", "x"], "No such command: inspect", "type piflow inspect-policy"),
        (["distill", "--teacher", "digits", "--device", "gpu"], "no such kind of device", "--device auto"),
        (["sample"], "neither a student nor a teacher", "piflow sample --teacher NAME"),
        (["sample", "x", "--steps", "0"], "--steps 0: must be at least 1", "type --steps 4"),
        (["sample", "x", "--steps", "-1"], "--steps -1: must be at least 1", "type --steps 4"),
        (["sample", "x", "--substeps", "0"], "--substeps 0: must be at least 1", "type --substeps 1"),
        (["sample", "x", "--steps", "1e+06"], "--steps 1e+06: must be a whole number", "type --steps 1000, or less"),
        (["sample", "x", "--steps", "1000000"], "--steps 1000000: more than 1,000", "type --steps 1000, or less"),
        (["sample", "x", "--offload", "grup"], "--offload grup: must be none, model", "type --offload group"),
        (["sample", "x", "--seeds"], "--seeds has no value", "type --seeds 0-3"),
        (["sample", "x", "--lora"], "--lora has no value", "type --lora PATH[:SCALE]"),
        (["export", "x", "--output"], "--output has no value", "type --output DIR"),
        (["sample", "x", "--batch-size", "0"], "--batch-size 0: must be at least 1", "type --batch-size 1"),
        (["sample", "x", "--num-images", "0"], "--num-images 0: must be at least 1", "type --num-images 64"),
        (["sample", "x", "--num-images", "99999999999"], "more than 10,000,000", "type --num-images 10000000"),
        (["sample", "x", "--seeds", "5-2"], "runs backwards", "type --seeds 2-5"),
        (["sample", "x", "--labels", "a"], "'a' is neither a number nor a range", "--labels 0-3,7"),
        (["sample", "x", "--seeds", "1", "--num-images", "3"], "exclude each other", "keep --seeds"),
        (["sample", "x", "--temperature", "2"], "at most 1", "--temperature auto"),
        (["sample", "x", "--stochastic", "-1"], "at least 0", "inf"),
        (["--quiet"], "no command given", "piflow --help"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_a_hint(cli, training, requests, arguments, message, hint):
    outcome = cli(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    first, second = outcome.err.splitlines(keepends=True)
    assert first.startswith("Error: ") and message in first
    assert second.startswith("  → ") and hint in second
    assert not training.runs and not requests


@pytest.mark.parametrize(
    "arguments", [["distill", "--json"], ["--json", "distill"], ["sample", "--json", "--bad"], ["--json"]]
)
def test_with_json_an_error_is_one_object_on_stderr(cli, arguments):
    outcome = cli(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    record = json.loads(outcome.err)
    assert set(record) == {"error", "hint", "exit_code"} and record["exit_code"] == 2


def test_json_after_the_double_dash_is_a_name(cli):
    assert cli("sample", "--steps", "0", "--", "--json").err.startswith("Error: ")


def test_a_fault_in_how_options_are_written_leads_to_the_help_of_the_command(cli):
    outcome = cli("--json", "inspect-policy", "--compare", "runs/a")
    assert outcome.code == 2 and json.loads(outcome.err)["hint"] == "piflow inspect-policy --help lists what there is"
