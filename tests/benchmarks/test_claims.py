"""The claims' program: what it calls a difference, and one small study from end to end."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import claim_courses
import claim_runs
import claims
import claims_diffusion
import claims_distilled
import claims_emoji
import claims_page
import claims_video
import pytest
import torch
from claim_runs import growth
from claim_table import CLAIMS, Arm, Claim, Comparison
from claim_verdicts import FAILS, HOLDS, UNDECIDED, half_width, judge, verdict
from common import write_json
from interruptions import interrupted_at
from tiny_presets import texts
from tiny_vae import tiny_vae
from zoo import ZOO, zoo_preset

from piflow_cli.sampling.denoise import sample_student
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.students.run_settings import read_settings
from piflow_cli.students.runs import RunFolder
from piflow_cli.training import run


def figures(**values: list[float]) -> dict[str, list[dict[str, float]]]:
    return {name: [{"to_data": value} for value in given] for name, given in values.items()}


LESS = Comparison("a", "b", "to_data")
ALIKE = Comparison("a", "b", "to_data", apart=False)


def test_the_margin_is_welch_s():
    # Equal spreads of three: 4 degrees of freedom, t = 2.776445.
    assert half_width([1.0, 2.0, 3.0], [11.0, 12.0, 13.0]) == pytest.approx(2.776445 * (2 / 3) ** 0.5, rel=1e-6)
    # One spread alone: 2 degrees of freedom, t = 4.302653.
    assert half_width([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == pytest.approx(4.302653 * (1 / 3) ** 0.5, rel=1e-6)
    assert half_width([1.0, 1.0], [2.0, 2.0]) == 0


@pytest.mark.parametrize(
    ("asked", "a", "b", "expected"),
    [
        (LESS, [0.10, 0.11, 0.12], [0.20, 0.21, 0.22], HOLDS),
        (LESS, [0.20, 0.21, 0.22], [0.10, 0.11, 0.12], FAILS),
        (LESS, [0.10, 0.20, 0.30], [0.11, 0.21, 0.31], UNDECIDED),
        (ALIKE, [1.00, 1.01, 1.02], [1.01, 1.02, 1.03], HOLDS),
        (ALIKE, [1.00, 1.01, 1.02], [2.00, 2.01, 2.02], FAILS),
        (ALIKE, [1.00, 1.50, 2.00], [1.00, 1.50, 2.00], UNDECIDED),
    ],
)
def test_a_difference_counts_where_its_interval_is_clear(asked, a, b, expected):
    found = judge(asked, figures(a=a, b=b))
    assert found.verdict == expected
    assert found.difference == pytest.approx(sum(a) / 3 - sum(b) / 3)


def test_a_claim_holds_where_all_of_it_does():
    holds, fails, open_ = (
        judge(LESS, figures(a=a, b=[0.2, 0.2, 0.2])) for a in ([0.1] * 3, [0.3] * 3, [0.1, 0.2, 0.3])
    )
    assert verdict([holds, holds]) == HOLDS
    assert verdict([holds, open_]) == UNDECIDED
    assert verdict([fails, open_]) == FAILS
    assert verdict([fails, holds]) == "holds in part"


def test_an_error_that_grows_as_the_square_has_growth_two():
    raws = [1 - part / 32 for part in range(33)]
    assert growth(raws, [3 * (1 - raw) ** 2 for raw in raws]) == pytest.approx(2)


def test_a_command_that_fails_is_told(capsys) -> None:
    assert claim_runs.piflow("--version").startswith("piflow ")
    with pytest.raises(RuntimeError, match="piflow distill --teacher gone: exit code 2"):
        claim_runs.piflow("distill", "--teacher", "gone")
    assert "gone" in capsys.readouterr().err


def test_a_student_whose_training_was_stopped_is_not_measured(tmp_path, monkeypatch) -> None:
    """To piflow itself SIGTERM is no failure; the same study goes on from there."""
    study, arm = claim_runs.Study(tmp_path, 3, images=20), Arm(settings=("optimisation.batch_size=8",))
    with monkeypatch.context() as patched:
        patched.setattr(run, "train_step", interrupted_at(2, signal.SIGTERM))
        with pytest.raises(RuntimeError, match="is stopped at iteration 2 of 3"):
            study.figures(arm, 0)
    assert not study.measured(arm, 0).exists()
    assert study.figures(arm, 0)["to_data"] > 0


def test_every_claim_compares_students_that_it_has():
    assert len({claim.number for claim in CLAIMS}) == len(CLAIMS)
    studies = (CLAIMS, claims_distilled.CLAIMS, claims_emoji.CLAIMS, claims_diffusion.CLAIMS, claims_video.CLAIMS)
    for study in studies:
        # --only takes titles, with commas between.
        titles = [claim.title for claim in study]
        assert len(set(titles)) == len(titles) and "," not in "".join(titles)
    for claim in (claim for study in studies for claim in study):
        used = {name for one in claim.comparisons for name in (one.better, one.worse)}
        assert used <= claim.arms.keys()


@pytest.mark.long
def test_a_small_study_is_made_once(tmp_path, monkeypatch, capsys):
    arms = {"mixture": Arm(), "cold": Arm(sampling={"temperature": 0.3})}
    small = Claim(1, "Title", "here", "says", arms, (Comparison("mixture", "cold", "to_data"),))
    monkeypatch.setattr(claims, "CLAIMS", (small, replace(small, number=2)))
    file = tmp_path / "claims.json"
    given = ["--runs", str(tmp_path / "runs"), "--seeds", "0,1", "--iterations", "2", "--images", "20"]
    claims.main([*given, "--json", str(file)])
    record = json.loads(file.read_text())
    assert [one["number"] for one in record["claims"]] == [1, 2] and record["claims"][0]["seeds"] == [0, 1]
    # Both students are one run, sampled in two ways, on two seeds.
    assert len(list((tmp_path / "runs").glob("*/run.yaml"))) == 2
    assert len(list((tmp_path / "runs").glob("fine-*.safetensors"))) == 1
    assert len(list((tmp_path / "runs").glob("*/measured-*.json"))) == 4
    first = record["claims"][0]["arms"]["mixture"]["figures"]
    assert len(first) == 2 and first[0]["to_data"] != first[1]["to_data"]
    # What was measured is not measured again.
    monkeypatch.setattr("claim_runs.Study._distil", None)
    claims.main([*given, "--only", "2"])
    assert "Title" in capsys.readouterr().out


@pytest.mark.long
def test_students_of_a_teacher_that_is_no_flow_model_are_measured_by_it(tmp_path, monkeypatch):
    arms = {name: claims_diffusion.OTHER_TEACHERS.arms[name] for name in ("dit-v", "dit-v, no window")}
    small = Claim(10, "Title", "here", "says", arms, (Comparison("dit-v", "dit-v, no window", "to_teacher"),))
    monkeypatch.setattr(claims_diffusion, "CLAIMS", (small,))
    monkeypatch.setattr("claim_runs.inspected", lambda *given: {})
    given = ["--runs", str(tmp_path), "--seeds", "0,1", "--iterations", "2", "--images", "20"]
    claims_diffusion.main([*given, "--json", str(tmp_path / "claims.json")])
    teacher = tmp_path / "teacher-dit-v-2"
    assert json.loads((teacher / "config.json").read_text()) and len(list(tmp_path.glob("teacher-*"))) == 1
    records = [run.settings for run in map(RunFolder, tmp_path.iterdir()) if run.settings.is_file()]
    assert len(records) == 4 and {read_settings(one).teacher.base for one in records} == {str(teacher)}
    # The ruler of the flow teacher is another one.
    written = json.loads((tmp_path / "claims.json").read_text())
    (claim,) = written["claims"]
    assert [list(told) for told in written["teachers"].values()] == [["to_data", "by_classifier"]]
    study = claims.Study(tmp_path, 2, images=20)
    by_flow = study.measure(arms["dit-v"], study.folder(arms["dit-v"], 0))
    found = claim["arms"]["dit-v"]["figures"][0]
    assert found["to_data"] == pytest.approx(by_flow["to_data"]) and found["to_teacher"] != by_flow["to_teacher"]


def recorded(folder: Path, name: str, teacher: str, *claims_of: Claim, spread: float) -> Path:
    """A file as the program writes it: the first student of each comparison at 1, the second at 2, seeds apart."""
    found = []
    for claim in claims_of:
        values = {name: 1 + (name in {one.worse for one in claim.comparisons}) for name in claim.arms}
        drawn = {name: [{"to_data": value + spread * seed} for seed in range(3)] for name, value in values.items()}
        found.append(claims.record(claim, drawn, [0, 1, 2]))
    facts = {"device": "x86_64 CPU", "versions": {"torch": "2.9"}, "date": "2026-01-02", "images": 1797}
    file = folder / name
    write_json(file, {"benchmark": "claims", "teacher": teacher, **facts, "claims": found})
    return file


TABLE = "<!-- table: {} -->\nstale\n<!-- end -->\n"
PAGE = f"# Claims\n\n{TABLE.format('claims')}after\n" + "".join(map(TABLE.format, claims_page.IDEAS))


def test_the_page_has_a_verdict_and_a_table_for_each_claim(tmp_path) -> None:
    small = Claim(2, "Second", "pi-Flow, table 1", "A beats B.", {"a": Arm(), "b": Arm(nfe=2)}, (LESS,))
    files = [
        recorded(tmp_path, "one.json", "digits", small, spread=0.001),
        tmp_path / "none.json",
        recorded(tmp_path, "two.json", "emoji", replace(small, number=1, title="First"), spread=2.0),
    ]
    page = claims_page.claims(PAGE, files)
    assert page.startswith("# Claims") and "<!-- end -->\nafter\n" in page and "stale" not in page
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    # By the number of the claim, whatever the file.
    assert rows[1] == "| 1. First | emoji | 3 | undecided | 0 of 1 |"
    assert rows[2] == "| 2. Second | digits | 3 | holds | 1 of 1 |"
    # Means of 1, 1.001, 1.002 and a whole above; Welch's half width of equal spreads is 2.776 * 0.001 * sqrt(2 / 3).
    assert "| a \\< b | to_data | 1 | 2 | -1 ± 0.0023 | holds |" in rows
    assert "\n\nNot measured yet: 3, 4, 5, 6, 7, 8, 9, 10, 11.\n\n" in page
    assert "### 2. Second, on digits\n\npi-Flow, table 1. A beats B. **Holds.**" in page
    assert "Students of digits: 1,797 pictures, x86_64 CPU, torch 2.9, 2026-01-02." in page


def test_the_page_says_that_nothing_was_recorded(tmp_path) -> None:
    assert claims_page.NONE in claims_page.claims(PAGE, [tmp_path / "none.json"])


def test_latents_are_held_against_the_teacher_s() -> None:
    """Twice the teacher's: as far off as they are large; the two pictures of a prompt twice as far apart."""
    fine = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    found = claim_courses.against_teacher(2 * fine, fine)
    assert found == pytest.approx({"error": 1, "norm": 2, "norm_off": math.log(2), "sameness": -1}, rel=1e-5)
    # Pictures that no longer depend on the noise, of half the size.
    alike = 0.5 * fine[::2].repeat_interleave(2, dim=0)
    assert claim_courses.against_teacher(alike, fine)["sameness"] == 1


def test_a_student_is_looked_at_all_along_its_training(cli, text_encoders, tmp_path, monkeypatch) -> None:
    """The last look is at the student that the run has saved; those before it are at others."""
    preset, _ = zoo_preset(ZOO["flux"], tmp_path)
    tiny_vae(ZOO["flux"].family).save_pretrained(tmp_path / "base" / "vae")
    settings = ["output.checkpoint_every=1", "output.keep_checkpoints=9", "data.resolution=64"]
    told = [*texts(tmp_path, "ab", "abc"), *(part for setting in settings for part in ("--set", setting))]
    run = tmp_path / "run"
    assert cli("distill", "--teacher", str(preset), *told, "--output", str(run), "--quiet").code == 0
    monkeypatch.setattr(claims_emoji, "TEACHER_STEPS", 4)
    monkeypatch.setattr(claims_emoji, "inspected", lambda *given: {"teacher_error": 0.5})
    study = claims_emoji.EmojiStudy(tmp_path / "study", images=4)
    found = study.measure(Arm(nfe=2), run)
    looks = found["course"]
    assert [look["iteration"] for look in looks] == [1, 2, 3, 4] and len({look["error"] for look in looks}) == 4
    assert found["worst_norm_off"] == max(look["norm_off"] for look in looks[2:]) and found["teacher_error"] == 0.5
    saved = study._opened(run)
    noise, conditioning = saved.noise(saved.specs), saved.conditioning(saved.specs)
    with torch.no_grad():
        fine = own_teacher(saved.student, run).sample(noise, conditioning, claims_emoji.TEACHER_STEPS)
        apart = (sample_student(saved.student, noise, conditioning) - fine).square().mean() / fine.square().mean()
    assert found["error"] == pytest.approx(apart.item(), rel=1e-4)
    assert (run / "course.png").is_file()
