"""`piflow sample`: pictures that depend on seed and label alone, and what cannot be sampled."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_students import tiny_student

from piflow_cli.core.guidance import Guidance
from piflow_cli.core.rollout import rollout
from piflow_cli.core.timegrid import TimeGrid
from piflow_cli.errors import RunError
from piflow_cli.presets.resolve import load
from piflow_cli.reports.images import image_grid, to_images
from piflow_cli.sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of


@pytest.fixture(scope="module")
def student(tiny_teacher, tmp_path_factory) -> Path:
    from piflow_cli.app import main

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = ["--nfe", "2", "--iterations", "4", "--quiet", "--output", str(folder)]
    assert main(["distill", "--teacher", str(tiny_teacher), *arguments]) == 0
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("stochastic", ["0", "inf"])
def test_an_image_does_not_depend_on_its_batch(cli, student, tmp_path, stochastic: str) -> None:
    for folder, arguments in {"all": ["--seeds", "0-11"], "few": ["--seeds", "7,3", "--batch-size", "1"]}.items():
        options = ["--output", str(tmp_path / folder), "--stochastic", stochastic, "--quiet"]
        assert cli("sample", str(student), *arguments, *options).code == 0
    for seed in (3, 7):
        difference = pixels(tmp_path / "all" / f"{seed:06d}.png") - pixels(tmp_path / "few" / f"{seed:06d}.png")
        assert abs(difference).max() <= 1


@pytest.mark.parametrize(("stochastic", "told"), [("0", 0.0), ("0.5", 0.5), ("inf", "inf")])
def test_recipes_are_numbers_and_json_that_every_parser_accepts(
    cli, student, tmp_path, stochastic: str, told: float | str
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    outcome = cli(
        "sample", str(student), "--seeds", "0", "--stochastic", stochastic, "--output", str(tmp_path), "--json"
    )
    assert json.loads(outcome.out, parse_constant=refuse)["stochastic"] == told
    with Image.open(tmp_path / "000000.png") as image:
        assert json.loads(image.text["piflow"], parse_constant=refuse)["stochastic"] == told


def test_images_have_the_models_size_and_carry_their_recipe(cli, student, tmp_path) -> None:
    outcome = cli("sample", str(student), "--labels", "2", "--seeds", "5", "--output", str(tmp_path), "--json")
    result = json.loads(outcome.out)
    assert result["images"] == [str(tmp_path / "000005.png")]
    with Image.open(tmp_path / "000005.png") as image:
        assert image.size == (4, 4) and image.mode == "L"
        recipe = json.loads(image.text["piflow"])
    assert (recipe["seed"], recipe["label"], recipe["steps"], recipe["teacher"]) == (5, 2, 2, "tiny")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (64, 64)


def test_recipe_and_grid_can_be_left_out(cli, student, tmp_path) -> None:
    assert (
        cli(
            "sample", str(student), "--seeds", "0", "--output", str(tmp_path), "--no-metadata", "--no-grid", "--quiet"
        ).code
        == 0
    )
    assert [path.name for path in tmp_path.iterdir()] == ["000000.png"]
    with Image.open(tmp_path / "000000.png") as image:
        assert "piflow" not in image.text


def test_settings_change_the_picture(cli, student, tmp_path) -> None:
    variants = {"plain": [], "steps": ["--steps", "5"], "substeps": ["--substeps", "2"], "label": ["--labels", "1"]}
    for name, arguments in variants.items():
        assert (
            cli("sample", str(student), "--seeds", "0", "--output", str(tmp_path / name), "--quiet", *arguments).code
            == 0
        )
    pictures = {pixels(tmp_path / name / "000000.png").tobytes() for name in variants}
    assert len(pictures) == len(variants)


def noticed(outcome) -> list[str]:
    return [json.loads(line)["warning"] for line in outcome.err.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "warnings"),
    [
        ([], []),
        (["--steps", "2"], []),
        (
            ["--steps", "4"],
            ["the student was distilled at 2 evaluations, from few states on the way: pictures of --steps 4 get worse"],
        ),
        (["--steps", "1"], ["the student was distilled at 2 evaluations: pictures of --steps 1 may suffer"]),
        (
            ["--steps", "1", "--temperature", "0.5", "--stochastic", "1"],
            [
                "the student was distilled at 2 evaluations: pictures of --steps 1 may suffer",
                "--temperature has no effect on the last evaluation, and there is no other",
                "--stochastic puts noise back between two evaluations, and there is one: it has no effect",
            ],
        ),
        (["--temperature", "0.5", "--stochastic", "1"], []),
        (["--shift", "1"], []),
        (["--shift", "3"], ["the student was distilled at shift 1: pictures of --shift 3 may suffer"]),
        (
            ["--guidance", "2"],
            ["the student has guidance 1 distilled in: --guidance 2 is another, and it has no effect"],
        ),
    ],
)
def test_settings_other_than_those_it_was_distilled_at_warn_once(cli, student, tmp_path, arguments, warnings) -> None:
    outcome = cli(
        "sample", str(student), "--seeds", "0-2", "--batch-size", "1", "--output", str(tmp_path), "--json", *arguments
    )
    assert outcome.code == 0 and noticed(outcome) == warnings


@pytest.mark.parametrize("steps", [2, 3, 5, 8])
def test_more_steps_than_trained_walk_the_finer_grid_with_the_policy_as_it_was(steps: int) -> None:
    """Each step rolls the policy of one evaluation down a shorter segment; the DX policy goes on to span its own."""
    for kind in ("gm", "dx", "momentum"):
        student = tiny_student(kind)
        facts, grid = student.facts, TimeGrid(steps, 0.5, 3.2)
        x = seeded_noise(seeded_generators([0, 1]), (2, 4, 4))
        conditioning = student.family.condition(student.model, [0, 1])
        sampled = sample_student(student, x, conditioning, steps=steps, temperature=1.0)
        with torch.no_grad():
            for start, end in zip(grid.edges, grid.edges[1:]):
                policy = student.policy(student.model, x, torch.full((2,), start, dtype=torch.float64), conditioning)
                if kind == "dx":
                    assert policy.segment == facts.segment == 1 / 1.5 and policy.segment >= start - end
                x = rollout(
                    policy,
                    policy.x_src,
                    policy.raw_src,
                    torch.full((2,), end, dtype=torch.float64),
                    substeps=facts.substeps,
                )
        torch.testing.assert_close(sampled, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "warnings"),
    [
        ("gm", ["--temperature has no effect on the last evaluation, and there is no other"]),
        ("dx", ["--temperature is for mixtures: on a dx policy it has no effect"]),
        (
            "momentum",
            [
                "--temperature is for mixtures: on a momentum policy it has no effect",
                "--substeps: a momentum policy is followed exactly, and takes none",
            ],
        ),
    ],
)
def test_what_does_nothing_to_a_policy_is_said(cli, tiny_teacher, tmp_path, kind: str, warnings: list[str]) -> None:
    preset, family = load(str(tiny_teacher)), family_of("dit")
    facts = replace(StudentFacts.of(preset), policy=kind)
    save_adapter(student_of(family.load(Path(preset.teacher.base)), family, facts, seed=0), tmp_path / kind)
    outcome = cli(
        "sample",
        str(tmp_path / kind),
        "--seeds",
        "0",
        "--temperature",
        "0.5",
        "--substeps",
        "32",
        "--output",
        str(tmp_path / "out"),
        "--json",
    )
    assert outcome.code == 0 and noticed(outcome) == warnings


def test_a_dx_student_says_where_its_policies_end_and_keeps_its_shift(cli, tiny_teacher, tmp_path) -> None:
    preset, family = load(str(tiny_teacher)), family_of("dit")
    facts = replace(StudentFacts.of(preset), policy="dx", nfe=2, segment=0.5)
    save_adapter(student_of(family.load(Path(preset.teacher.base)), family, facts, seed=0), tmp_path / "dx")
    outcome = cli(
        "sample", str(tmp_path / "dx"), "--seeds", "0", "--steps", "1", "--output", str(tmp_path / "out"), "--json"
    )
    reach = "pictures of --steps 1 may suffer, and its policies end before the steps do"
    assert outcome.code == 0 and noticed(outcome) == [f"the student was distilled at 2 evaluations: {reach}"]
    outcome = cli("sample", str(tmp_path / "dx"), "--seeds", "0", "--shift", "2", "--output", str(tmp_path / "none"))
    assert (
        outcome.code == 2
        and "the shift 1 is part of a dx policy: 2 is another" in outcome.err
        and not (tmp_path / "none").exists()
    )


def test_another_shift_moves_the_evaluations_of_a_gm_student() -> None:
    student = tiny_student()
    scheduler = student.scheduler(shift=1.0)
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == pytest.approx([1000, 1000 / 3])
    x = seeded_noise(seeded_generators([0]), (2, 4, 4))
    conditioning = student.family.condition(student.model, [0])
    changed, same = (sample_student(student, x, conditioning, shift=shift) for shift in (1.0, student.facts.shift))
    assert torch.equal(same, sample_student(student, x, conditioning)) and not torch.equal(changed, same)


def test_the_adapter_folder_samples_like_its_run(cli, student, tmp_path) -> None:
    for folder, path in (("run", student), ("adapter", student / "adapter")):
        assert cli("sample", str(path), "--seeds", "0", "--output", str(tmp_path / folder), "--quiet").code == 0
    assert (pixels(tmp_path / "run" / "000000.png") == pixels(tmp_path / "adapter" / "000000.png")).all()


def test_a_teacher_is_sampled_by_euler_steps(cli, tiny_teacher, tmp_path) -> None:
    import yaml

    assert (
        cli(
            "sample",
            "--teacher",
            str(tiny_teacher),
            "--steps",
            "3",
            "--seeds",
            "4",
            "--labels",
            "1",
            "--output",
            str(tmp_path),
            "--quiet",
        ).code
        == 0
    )
    family = family_of("dit")
    model = family.load(Path(yaml.safe_load(tiny_teacher.read_text())["teacher"]["base"]))
    x = seeded_noise(seeded_generators([4]), (1, 4, 4))
    with torch.no_grad():
        for sigma in (1, 2 / 3, 1 / 3):
            x = x - family.call(model, x, torch.tensor([sigma]), family.condition(model, [1])) / 3
    assert abs(pixels(tmp_path / "000004.png") - np.asarray(to_images(x)[0]).astype(int)).max() <= 1


def test_guidance_of_one_is_none() -> None:
    student = tiny_student()
    family, model = student.family, student.model
    model.proj_out_2 = torch.nn.Linear(16, 8)
    model.out_channels = 2
    noise = seeded_noise(seeded_generators([0, 1]), (2, 4, 4))
    conditioning = family.condition(model, [0, 1])
    plain = sample_teacher(family, model, noise, conditioning, 4, 1.0, Guidance())
    null = family.unconditional(model, conditioning)
    torch.testing.assert_close(
        sample_teacher(family, model, noise, conditioning, 4, 1.0, Guidance(2.0, (2.0, 3.0))), plain
    )
    guided = sample_teacher(family, model, noise, conditioning, 4, 1.0, Guidance(2.0))
    assert null["class_labels"].tolist() == [3, 3] and (guided - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--labels", "3"], 2, "label 3 is out of range: this model has classes 0 to 2"),
        (["--seeds", "5-2"], 2, "runs backwards"),
        (["--steps", "0"], 2, "--steps"),
        (["--steps", "-1"], 2, "--steps"),
        (["--shift", "0"], 2, "--shift 0.0: not a number above 0"),
        (["--shift", "nan"], 2, "--shift nan: not a number above 0"),
        (["--subfolder", "none"], 2, "there is no folder"),
        (["--substeps", "0"], 2, "--substeps"),
        (["--temperature", "0"], 2, "--temperature"),
        (["--stochastic", "-1"], 2, "--stochastic"),
        (["--device", "cuda"], 2, "--device cuda"),
        (["--teacher", "digits"], 2, "was trained for the teacher tiny, not digits"),
    ],
)
def test_what_cannot_be_sampled_says_so(cli, student, tmp_path, monkeypatch, arguments, code, message) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = cli("sample", str(student), "--output", str(tmp_path / "out"), *arguments)
    assert outcome.code == code
    assert message in outcome.err and "→" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_policy_setting_for_a_teacher_is_refused(cli, tiny_teacher) -> None:
    outcome = cli("sample", "--teacher", str(tiny_teacher), "--substeps", "8")
    assert outcome.code == 2 and "a teacher has none" in outcome.err


def test_a_student_that_is_not_there_is_refused(cli, tmp_path) -> None:
    outcome = cli("sample", str(tmp_path / "nowhere"))
    assert outcome.code == 2 and "there is no student at" in outcome.err


def test_a_run_without_a_student_says_how_to_finish_it(cli, student, tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text((student / "run.yaml").read_text())
    outcome = cli("sample", str(run), "--json")
    told = json.loads(outcome.err)
    assert outcome.code == 2 and "has not finished" in told["error"]
    # The command of the hint, typed as it stands, leads to a student.
    typed = shlex.split(told["hint"].removeprefix("finish it: piflow "))
    assert cli(*typed, "--quiet").code == 0
    assert cli("sample", str(run), "--seeds", "0", "--output", str(tmp_path / "out"), "--quiet").code == 0


def test_no_grid_is_made_of_more_pictures_than_fit_in_memory(cli, student, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("piflow_cli.sampling.sample.MOST_IN_GRID", 3)
    for seeds, grid in (("0-2", True), ("0-3", False)):
        outcome = cli("sample", str(student), "--seeds", seeds, "--output", str(tmp_path / seeds), "--json")
        assert (json.loads(outcome.out)["grid"] is not None) == (tmp_path / seeds / "grid.png").exists() == grid
        assert ["no grid" in warning for warning in noticed(outcome)] == ([] if grid else [True])


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_states_that_overflow_are_refused_and_no_black_picture_is_left(cli, tiny_teacher, tmp_path, kind: str) -> None:
    """Weights that are finite, and still too large for float32 products."""
    preset, family = load(str(tiny_teacher)), family_of("dit")
    model = family.load(Path(preset.teacher.base))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e38)
    if kind == "student":
        save_adapter(student_of(model, family, StudentFacts.of(preset), seed=0), tmp_path / "made")
        arguments = [str(tmp_path / "made")]
    else:
        model.save_pretrained(tmp_path / "made")
        arguments = ["--teacher", str(tiny_teacher), "--base", str(tmp_path / "made")]
    outcome = cli("sample", *arguments, "--seeds", "0-2", "--output", str(tmp_path / "out"), "--json")
    assert outcome.code == 1 and "not finite" in json.loads(outcome.err)["error"]
    assert not (tmp_path / "out").exists()


def test_one_state_that_is_not_finite_is_enough() -> None:
    pictures = torch.zeros(4, 1, 2, 2)
    for value in (torch.nan, torch.inf):
        pictures[1, 0, 1, 1] = value
        with pytest.raises(RunError, match="not finite"):
            to_images(pictures)


def test_a_full_disk_leaves_whole_pictures_only(cli, student, tmp_path, monkeypatch) -> None:
    write = Path.write_bytes

    def fills(self, content: bytes) -> None:
        write(self, content)
        if "000001" in self.name:
            raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", fills)
    outcome = cli("sample", str(student), "--seeds", "0-3", "--output", str(tmp_path / "out"))
    assert outcome.code == 1 and "the disk is full" in outcome.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000000.png"]


def test_states_become_pixels_by_rounding_and_clipping() -> None:
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0, 0.5]).reshape(1, 1, 2, 3)
    assert np.asarray(to_images(x)[0]).tolist() == [[0, 0, 128], [255, 255, 191]]
    assert to_images(torch.zeros(2, 3, 4, 5))[1].mode == "RGB"


def test_a_grid_is_read_row_by_row_and_enlarged_by_whole_factors() -> None:
    images = to_images(torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 1, 8, 8))
    grid = np.asarray(image_grid(images, 3))
    assert grid.shape == (128, 192)
    assert [grid[32, 32], grid[32, 96], grid[32, 160], grid[96, 32], grid[96, 96]] == [0, 64, 128, 191, 255]
    assert grid[96, 160] == 0
