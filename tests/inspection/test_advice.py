"""A healthy student is left in peace; each ill has its name, and a remedy that a preset takes."""

import math
import re
from dataclasses import fields, replace

import pytest

from piflow_cli.inspection.advice import advice
from piflow_cli.inspection.kinds.mixture import MixtureSummary
from piflow_cli.inspection.kinds.momentum import MomentumSummary
from piflow_cli.inspection.numbers import Perturbation, Robustness, Step, Summary
from piflow_cli.inspection.verdict import verdict_rows
from piflow_cli.presets.resolve import load
from piflow_cli.presets.schema import SECTIONS

PRESET = load("digits")
AGAIN = "piflow distill --teacher digits --output runs/digits-again"


def mixture(**changes) -> MixtureSummary:
    healthy = MixtureSummary(
        components=4, effective=(1.5, 2.5, 3.5), effective_overall=3.8, usage=[0.4, 0.3, 0.2, 0.1], dead=[],
        varying=0.1, logstd=-3.0,
        logstd_range=(-3.5, -2.5), std=0.05, spread=0.3, posterior_effective=[2.5, 1.0], moved=[0.2], switches=0.2,
        shift=0.5,
    )  # fmt: skip
    return replace(healthy, **changes)


def velocity_error(squares: list[float], teacher: float = 1.0) -> list[dict]:
    return [
        {"raw": 1 - i / 8, "sigma": 1 - i / 8, "squared": value, "teacher": teacher, "relative": value / teacher}
        for i, value in enumerate(squares)
    ]


def step(**changes) -> Step:
    healthy = Step(
        step=1, raws=[1 - i / 8 for i in range(9)], sigmas=[1 - i / 8 for i in range(9)], part=mixture(),
        speed=[1.0] * 8,
        turn=[1.0] * 7, straightness=0.99, substeps=[8, 16, 32, 64, 128, 256], substep_errors=[0.02, 0.01, 0.005,
        0.002, 0.001, 0.0005],
        substeps_enough=16, velocity_error=velocity_error([0.1] * 8), gap=[0.1] * 9, teacher_speed=[1.0] * 8,
    )  # fmt: skip
    return replace(healthy, **changes)


def robustness(steering: float | None = 0.6) -> Robustness:
    names = ["0.03 sigma", "0.1 sigma", "0.3 sigma", "1 sigma", "measured"]
    sizes = [Perturbation(name, 0.1, [1.0, 0.5], [1.0, 0.6], steering) for name in names]
    return Robustness([0.5, 0.0], 0.5, 0.0, sizes, [0.1] * 4)


def summary(**changes) -> Summary:
    healthy = Summary(
        student="runs/digits", teacher="digits", policy="gm", components=4, nfe=1, shift=1.0, substeps=128,
        iterations=200,
        shots=[{"seed": 0, "label": 0}], at=1, steps=[step()], robustness=robustness(), straightness=0.99,
        teacher_robustness=None, trajectory_error=0.1,
        endpoint_error=0.1,
    )  # fmt: skip
    return replace(healthy, **changes)


def dx_step(**changes) -> Step:
    return step(part=None, **changes)


ILL = {
    "collapsed mixture": summary(steps=[step(part=mixture(effective=(1.0, 1.05, 1.1)))]),
    "dead components": summary(steps=[step(part=mixture(dead=[1, 3]))]),
    "log-std at its edge": summary(steps=[step(part=mixture(logstd_range=(-9.0, -7.0)))]),
    "weights never move": summary(steps=[step(part=mixture(shift=0.001))]),
    "too few substeps": summary(substeps=16, steps=[step(substeps_enough=64)]),
    "error at the start": summary(steps=[step(velocity_error=velocity_error([0.9, 0.8] + [0.01] * 6))]),
    "error at the end": summary(steps=[step(velocity_error=velocity_error([0.01] * 6 + [0.8, 0.9]))]),
    "teacher off-distribution": summary(steps=[step(velocity_error=velocity_error([0.1] * 8, teacher=1.7))]),
    "does not steer back": summary(robustness=robustness(0.01)),
    "not finite": summary(straightness=math.nan),
}


def test_a_healthy_student_is_left_in_peace() -> None:
    assert advice(summary(), PRESET, AGAIN) == []
    assert all(row["verdict"] in ("fine", "") for row in verdict_rows([summary()], ["digits"], [[]]))


@pytest.mark.parametrize("name", ILL)
@pytest.mark.parametrize("preset", [PRESET, None])
def test_each_ill_is_named_alone_with_a_remedy_that_presets_know(name: str, preset) -> None:
    (warning,) = advice(ILL[name], preset, AGAIN)
    assert warning.name == name
    keys = re.findall(r"--set (\w+)\.(\w+)=([\d.e-]+)", warning.remedy)
    assert keys
    for section, key, _ in keys:
        assert key in [field.name for field in fields(SECTIONS[section])]


@pytest.mark.parametrize("name", ILL)
@pytest.mark.parametrize("preset", [PRESET, None])
def test_a_remedy_has_a_command_that_can_be_typed(cli, tmp_path, monkeypatch, name: str, preset) -> None:
    monkeypatch.chdir(tmp_path)
    (warning,) = advice(ILL[name], preset, AGAIN)
    told = re.search(rf"{AGAIN} (--set|--iterations) ([\w.=-]+)", warning.remedy)
    assert told is not None, warning.remedy
    outcome = cli(*AGAIN.split()[1:], *told.groups(), "--print-config")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("name", [name for name in ILL if name != "not finite"])
def test_the_verdict_of_one_line_says_it(name: str) -> None:
    rows = verdict_rows([ILL[name]], ["digits"], [advice(ILL[name], PRESET, AGAIN)])
    assert [row["verdict"] for row in rows if row["verdict"] not in ("fine", "")] == [name]


def test_remedies_start_from_what_the_student_was_trained_with() -> None:
    (warning,) = advice(ILL["error at the end"], PRESET, AGAIN)
    assert f"imitation.window={2 * PRESET.imitation.window}," in warning.remedy
    assert f"policy.substeps={2 * PRESET.policy.substeps}" in warning.remedy


@pytest.mark.parametrize("name", ["weights never move", "does not steer back"])
def test_a_longer_run_is_one_of_its_own_since_a_cosine_cannot_be_made_longer(name: str) -> None:
    (warning,) = advice(ILL[name], PRESET, AGAIN)
    assert AGAIN in warning.remedy
    assert f"train for longer: --iterations {2 * PRESET.optimisation.iterations}" in warning.remedy.replace(
        f"{AGAIN} ", ""
    )


def test_every_substep_count_that_is_not_enough_is_said() -> None:
    (warning,) = advice(summary(steps=[step(substeps_enough=None)]), PRESET, AGAIN)
    assert warning.name == "too few substeps" and "more than 256" in warning.text


def test_a_warning_says_which_evaluation_it_is_about() -> None:
    (warning,) = advice(summary(nfe=2, steps=[step(), step(step=2, part=mixture(dead=[0]))]), PRESET, AGAIN)
    assert warning.text.startswith("evaluation 2: ")


def test_what_the_teacher_would_tell_is_left_out_without_one() -> None:
    alone = summary(
        steps=[step(velocity_error=None, gap=None, teacher_speed=None)],
        robustness=robustness(None),
        trajectory_error=None,
        endpoint_error=None,
    )
    assert advice(alone, None, AGAIN) == []


def test_dx_is_not_blamed_for_what_it_cannot_do() -> None:
    student = summary(policy="dx", steps=[dx_step()], robustness=robustness(0.0))
    assert advice(student, PRESET, AGAIN) == []
    (line,) = [row for row in verdict_rows([student], ["digits"], [[]]) if row["what"] == "steering back"]
    assert line["verdict"] == "DX never does"


def test_momentum_has_no_fewer_than_two_components_and_does_not_react() -> None:
    rates = MomentumSummary(
        components=2,
        effective=(1.0, 1.0, 1.0),
        effective_overall=1.0,
        usage=[1.0, 0.0],
        dead=[1],
        gammas=[(1.0, 1.0, 1.0), (0.2, 0.2, 0.2)],
    )
    student = summary(policy="momentum", steps=[step(part=rates)], robustness=robustness(0.0))
    (warning,) = advice(student, PRESET, AGAIN)
    assert warning.name == "dead components" and "--set policy.components=2" in warning.remedy
    (line,) = [row for row in verdict_rows([student], ["digits"], [[]]) if row["what"] == "steering back"]
    assert line["verdict"] == "momentum keeps what is in the state"


def test_two_students_stand_beside_each_other() -> None:
    rows = verdict_rows([summary(), summary(policy="dx", steps=[dx_step()])], ["a", "b"], [[], []])
    assert list(rows[0]) == ["what", "a", "b"]
    (line,) = [row for row in rows if row["what"] == "log-std"]
    assert line["a"] is not None and line["b"] is None
