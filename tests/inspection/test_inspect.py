"""`piflow inspect-policy` from students on disk to the page, and what it refuses."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from piflow_cli.console import Console
from piflow_cli.core.validation import PolicyError
from piflow_cli.inspection.image_figures import ends_rows
from piflow_cli.inspection.report import is_of_report
from piflow_cli.sampling.denoise import sample_teacher
from piflow_cli.sampling.opened import open_model
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.sampling.trajectory import pooled, velocity_errors, walk
from piflow_cli.students.open import find_student

CPU = torch.device("cpu")
CHROMIUM = shutil.which("chromium")


def distilled(teacher: Path, folder: Path, policy: str, *options: str) -> Path:
    from piflow_cli.app import main

    arguments = ["--policy", policy, "--nfe", "2", "--iterations", "2", "--quiet", "--output", str(folder), *options]
    assert main(["distill", "--teacher", str(teacher), *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def gm(tiny_teacher, tmp_path_factory) -> Path:
    return distilled(tiny_teacher, tmp_path_factory.mktemp("runs") / "gm", "gm")


@pytest.fixture(scope="module")
def dx(tiny_teacher, tmp_path_factory) -> Path:
    return distilled(
        tiny_teacher,
        tmp_path_factory.mktemp("runs") / "dx",
        "dx",
        "--set",
        "imitation.dropout=0",
        "--set",
        "policy.final_step_scale=0.5",
    )


@pytest.fixture(scope="module")
def report(gm, dx, tmp_path_factory) -> Path:
    """Both students in one report, at their last evaluation, cut through the last position."""
    from piflow_cli.app import main

    folder = tmp_path_factory.mktemp("reports") / "both"
    options = ["--seeds", "0-4", "--at", "2", "--slice", "3,3", "--quiet", "--output", str(folder)]
    assert main(["inspect-policy", "--compare", str(gm), str(dx), *options]) == 0
    return folder


def read(folder: Path) -> list[dict]:
    return json.loads((folder / "policy.json").read_text())["students"]


def test_the_velocity_error_is_that_of_the_trajectory(report, gm, dx) -> None:
    for path, student in zip((gm, dx), read(report), strict=True):
        opened = open_model(
            find_student(path), SampleRequest(seeds=(0, 1, 2, 3, 4)), device=CPU, console=Console(quiet=True)
        )
        teacher = own_teacher(opened.student, path)
        # In two batches, as an evaluation may have it.
        found: dict[int, list] = {0: [], 1: []}
        for specs in (opened.specs[:2], opened.specs[2:]):
            given = opened.conditioning(specs)
            for step in walk(opened.student, opened.noise(specs), given, points=8):
                field = lambda x, sigma, given=given: teacher.velocity(x, sigma, given)  # noqa: E731
                found[step.index].append((len(specs), velocity_errors(step, field, opened.student.facts.shift)))
        for index, step in enumerate(student["steps"]):
            for theirs, ours in zip(pooled(found[index]), step["velocity_error"], strict=True):
                assert ours["raw"] == theirs.raw and ours["squared"] == pytest.approx(theirs.squared, rel=1e-4)
                assert ours["relative"] == pytest.approx(theirs.relative, rel=1e-4)


def test_the_distance_is_between_the_samples_of_student_and_teacher(report, gm) -> None:
    opened = open_model(find_student(gm), SampleRequest(seeds=(0, 1, 2, 3, 4)), device=CPU, console=Console(quiet=True))
    teacher, given, noise = (
        own_teacher(opened.student, gm),
        opened.conditioning(opened.specs),
        opened.noise(opened.specs),
    )
    fine = sample_teacher(teacher.family, teacher.model, noise, given, 128, teacher.shift, teacher.guidance)
    *_, last = walk(opened.student, noise, given)
    expected = (last.end - fine).square().mean().sqrt().item()
    student = read(report)[0]
    assert student["endpoint_error"] == pytest.approx(expected, rel=1e-3)
    assert student["steps"][-1]["gap"][-1] == student["endpoint_error"]


def test_dx_lets_pass_and_has_no_components(report) -> None:
    student = read(report)[1]
    robustness = student["robustness"]
    assert all(
        step["mixture"] is None and len(step["grid"]["curvature"]) == len(step["grid"]["raws"]) - 2
        for step in student["steps"]
    )
    # The last segment is half as long as the first, and all points of its grid lie in it.
    assert all(
        [step["grid"]["raws"][0], step["grid"]["raws"][-1]] == pytest.approx([step["raws"][-1], step["raws"][0]])
        for step in student["steps"]
    )
    for perturbation in robustness["perturbations"]:
        assert perturbation["left"][-1] == pytest.approx(robustness["passive"], abs=1e-4)
        assert perturbation["steering"] == pytest.approx(0, abs=1e-4)


def test_numbers_do_not_depend_on_batches(unrendered, gm, tmp_path, monkeypatch, cli) -> None:
    from piflow_cli.inspection import analysis

    numbers = []
    for size in (64, 2):
        monkeypatch.setattr(analysis, "CLASS_BATCH", size)
        assert (
            cli("inspect-policy", str(gm), "--seeds", "0-4", "--quiet", "--output", str(tmp_path / str(size))).code == 0
        )
        (student,) = read(tmp_path / str(size))
        numbers.append(
            torch.tensor(flat({key: value for key, value in student.items() if key not in ("warnings", "shots")}))
        )
    torch.testing.assert_close(*numbers, rtol=2e-3, atol=1e-4)


def flat(value: object) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [float(value)] if isinstance(value, (int, float)) else []


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.add(tag)
        self.found += [
            value for name, value in attributes if name in ("src", "href", "srcset", "data", "action", "poster")
        ]


def test_the_page_refers_to_nothing_outside_of_it(report) -> None:
    text = (report / "policy.html").read_text()
    links = Links()
    links.feed(text)
    assert all(link.startswith(("data:", "#")) for link in links.found)
    assert not links.tags & {"script", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    pictures = list(report.glob("*.png"))
    assert {
        "samples",
        "mixture",
        "maps-1",
        "grid",
        "course",
        "estimates-1",
        "estimates-2",
        "teacher",
        "substeps",
        "robustness",
        "dropout",
        "teacher-robustness",
        "slice-1",
        "slice-2",
    } == {path.stem for path in pictures}
    for path in pictures:
        with Image.open(path) as image:
            assert min(image.size) > 100


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_opens_the_page_without_a_complaint(report, tmp_path) -> None:
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        " --disable-component-update --disable-sync --enable-logging=stderr --window-size=1200,4000"
    )
    command = [
        CHROMIUM,
        *flags.split(),
        f"--user-data-dir={tmp_path / 'data'}",
        f"--screenshot={tmp_path / 'page.png'}",
        (report / "policy.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line or "net::ERR" in line]
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (1200, 4000) and len(image.convert("L").getcolors()) > 20


def test_the_table_is_on_the_screen_and_json_has_it_all(cli, unrendered, gm, tmp_path) -> None:
    outcome = cli("inspect-policy", str(gm), "--seeds", "0", "--output", str(tmp_path / "a"))
    assert outcome.out.splitlines()[0].split() == ["WHAT", "GM", "VERDICT"] and "components in effect" in outcome.out
    assert str(tmp_path / "a" / "policy.html") in outcome.err
    outcome = cli("inspect-policy", str(gm), "--seeds", "0", "--output", str(tmp_path / "b"), "--json")
    result = json.loads(outcome.out)
    assert result["students"] == read(tmp_path / "b") and all(Path(path).is_file() for path in result["files"])
    assert [row["what"] for row in result["verdict"]][:2] == ["policy", "evaluation"]


@pytest.fixture
def orphan(gm, tmp_path) -> Path:
    """The student of a run whose teacher's weights are gone."""
    folder = tmp_path / "orphan"
    shutil.copytree(gm, folder)
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    from piflow_cli.students.adapters import save_adapter
    from piflow_cli.students.open import open_student

    student = open_student(folder / "adapter")
    student.facts = type(student.facts)(**{**vars(student.facts), "base": str(tmp_path / "gone")})
    shutil.rmtree(folder / "adapter")
    save_adapter(student, folder / "adapter")
    settings["teacher"]["base"] = str(tmp_path / "gone")
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_without_its_teacher_all_else_is_there_and_it_is_said(cli, unrendered, orphan, tmp_path) -> None:
    outcome = cli("inspect-policy", str(orphan), "--seeds", "0-1", "--output", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.err
    assert "what needs the teacher is left out, because" in outcome.err and "gone" in outcome.err
    (student,) = read(tmp_path / "out")
    assert "gone" in student["teacher_missing"]
    assert student["trajectory_error"] is None and student["endpoint_error"] is None
    assert student["teacher_robustness"] is None
    assert all(
        step["velocity_error"] is None and step["mixture"]["effective"] and step["substep_errors"]
        for step in student["steps"]
    )
    assert [item["steering"] for item in student["robustness"]["perturbations"]] == [None] * 4
    page = (tmp_path / "out" / "policy.html").read_text()
    assert "what needs the teacher is left out" in page and not (tmp_path / "out" / "teacher.png").exists()


def test_what_the_network_must_not_emit_is_named(cli, gm, tmp_path, monkeypatch) -> None:
    from piflow_cli.students.student import Student

    policy = Student.policy

    def broken(self, *arguments):
        found = policy(self, *arguments)
        found.means[0, 0] = torch.nan
        return found

    monkeypatch.setattr(Student, "policy", broken)
    outcome = cli("inspect-policy", str(gm), "--seeds", "0", "--output", str(tmp_path / "out"))
    assert outcome.code == 1 and "means: holds a value that is not finite" in outcome.err and "→" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "3"], "takes 2 network evaluations, counted from 1"),
        (["--at", "0"], "--at"),
        (["--slice", "4,0"], "position 4,0 is outside the state, which has 4 columns and 4 rows"),
        (["--slice", "0,0,1"], "axis 1 is no channel"),
        (["--slice", "1"], "not a column and a row"),
        (["--slice=-1,0"], "not a column and a row"),
        (["--labels", "3"], "label 3 is out of range"),
        (["--seeds", "5-2"], "runs backwards"),
        (["--seeds", "0-128"], "that makes 129 pictures, and a report has room for 128"),
        (["--seeds", "0-64", "a", "b"], "that makes 130 pictures"),
        (["--prompts", "{tmp}/p.txt"], "class labels, not text"),
        (["--prompts", "{tmp}/none.txt"], "there are no prompts at"),
        (["--teacher", "digits"], "was trained for the teacher tiny, not digits"),
    ],
)
def test_what_cannot_be_looked_at_says_so(cli, gm, tmp_path, arguments, message) -> None:
    (tmp_path / "p.txt").write_text("a fox\n")
    told = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    outcome = cli("inspect-policy", str(gm), "--output", str(tmp_path / "out"), *told)
    assert outcome.code == 2
    assert message in outcome.err and "→" in outcome.err
    assert not (tmp_path / "out").exists()


def test_not_a_student_is_refused(cli, tiny_teacher, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    teacher = Path(yaml.safe_load(tiny_teacher.read_text())["teacher"]["base"])
    for folder, message in {
        tmp_path / "nowhere": "there is no student at",
        empty: "is not a student",
        teacher: "does not say",
    }.items():
        outcome = cli("inspect-policy", str(folder), "--output", str(tmp_path / "out"))
        assert outcome.code in (1, 2) and message in outcome.err and "→" in outcome.err


def test_what_is_no_policy_comes_with_what_to_try(cli, gm, tmp_path, monkeypatch) -> None:
    def refuse(*given: object) -> None:
        raise PolicyError("means", "holds a value that is not finite")

    monkeypatch.setattr("piflow_cli.inspection.inspect.examine", refuse)
    outcome = cli("inspect-policy", str(gm), "--seeds", "0", "--output", str(tmp_path / "out"))
    assert outcome.code == 1 and "emits what is no policy" in outcome.err
    assert "try --base-precision fp32; else distil again" in outcome.err


def test_a_folder_that_is_there_is_kept(cli, gm, tmp_path) -> None:
    run = ["inspect-policy", str(gm), "--seeds", "0", "--quiet", "--output", str(tmp_path)]
    (tmp_path / "notes.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        outcome = cli(*run, *more)
        assert outcome.code == 2 and "→" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_an_inspection_did_not_write_is_kept(cli, unrendered, gm, tmp_path) -> None:
    """Beside an inspection too: files of other names, pictures among them, and folders."""
    run = ["inspect-policy", str(gm), "--seeds", "0", "--quiet", "--output", str(tmp_path / "out"), "--overwrite"]
    assert cli(*run).code == 0
    for make, name in ((Path.touch, "notes.txt"), (Path.touch, "samples-3.png"), (Path.mkdir, "slice.png")):
        make(tmp_path / "out" / name)
        outcome = cli(*run)
        assert outcome.code == 2 and f"piflow inspect-policy did not write: {name}" in outcome.err
        (tmp_path / "out" / name).rename(tmp_path / name)
    assert cli(*run).code == 0


@pytest.mark.parametrize("name", ["$", r"$\frac{$", "a$b$c"])
def test_dollars_in_a_student_s_name_are_dollars(cli, gm, tmp_path, name: str) -> None:
    student = shutil.copytree(gm, tmp_path / name)
    outcome = cli("inspect-policy", str(student), "--seeds", "0", "--slice", "0,0", "--output", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.err


def test_students_of_two_teachers_stand_beside_both() -> None:
    black, white = ([Image.new("L", (4, 4), level)] * 2 for level in (0, 255))

    def labels(*teachers: list | None) -> list[str]:
        found = [SimpleNamespace(teacher_ends=ends, ends=black) for ends in teachers]
        return list(ends_rows(found, ["a", "b"][: len(found)]))

    assert labels(white, list(white)) == ["teacher", "a", "b"] and labels(None, None) == ["a", "b"]
    assert labels(white, black) == ["teacher of a", "teacher of b", "a", "b"] and labels(None, white) == [
        "teacher",
        "a",
        "b",
    ]


def test_every_file_of_a_report_is_known_as_one(report) -> None:
    assert all(is_of_report(path.name) for path in report.iterdir())
    assert not any(is_of_report(name) for name in ("grid.jpg", "maps-3.png", ".png", "policy.txt", "mine.png"))


def test_an_earlier_report_goes_when_it_is_told_to(cli, unrendered, gm, tmp_path) -> None:
    run = ["inspect-policy", str(gm), "--seeds", "0", "--quiet", "--output", str(tmp_path / "out")]
    assert cli(*run, "--slice", "0,0").code == 0 and (tmp_path / "out" / "slice.png").is_file()
    outcome = cli(*run)
    assert outcome.code == 2 and "--overwrite" in outcome.err
    assert cli(*run, "--overwrite").code == 0 and not (tmp_path / "out" / "slice.png").exists()


def test_a_momentum_student_shows_its_rates(cli, unrendered, gm, tiny_teacher, tmp_path) -> None:
    student = distilled(tiny_teacher, tmp_path / "run", "momentum", "--components", "3")
    told = ["--seeds", "0-2", "--output", str(tmp_path / "out"), "--overwrite"]
    outcome = cli("inspect-policy", "--compare", str(gm), str(student), *told)
    assert outcome.code == 0, outcome.err
    _, theirs = read(tmp_path / "out")
    momentum = theirs["steps"][0]["momentum"]
    # Two iterations at a tenth of the rate leave the three rates where they start: method.md has 0.2 to 4, and 1 never
    # moves.
    assert [half for _, half, _ in momentum["gammas"]] == pytest.approx([1.0, 0.2, 4.0], rel=0.01)
    assert sum(momentum["usage"]) == pytest.approx(1) and momentum["components"] == 3
    assert theirs["steps"][0]["mixture"] is None and theirs["steps"][0]["substep_errors"] == pytest.approx(
        [0] * 6, abs=1e-5
    )
    assert (tmp_path / "out" / "momentum.png").is_file() and (tmp_path / "out" / "maps-2.png").is_file()


@pytest.mark.parametrize(
    ("policy", "components", "said"),
    [
        ("gm", "1", "1.0 of 1 at a position"),
        ("dx", "1", "none: it has fewer than 3 points"),
        ("dx", "2", "none: it has"),
        ("dx-poly", "2", "0.00 per squared raw time"),
        ("momentum", "2", "none are taken: the way has a closed form"),
    ],
)
def test_the_smallest_policies_are_drawn_too(
    cli, tiny_teacher, tmp_path, policy: str, components: str, said: str
) -> None:
    student = distilled(
        tiny_teacher,
        tmp_path / "run",
        policy,
        "--set",
        f"policy.components={components}",
        "--set",
        "imitation.dropout=0",
    )
    outcome = cli("inspect-policy", str(student), "--seeds", "0", "--slice", "0,0", "--output", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.err
    assert said in outcome.out and (tmp_path / "out" / "slice.png").is_file()
