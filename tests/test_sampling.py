"""`piflow sample`: pictures that depend on seed and label alone, and what cannot be sampled."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from piflow_cli.core.guidance import Guidance
from piflow_cli.generation import sample_teacher, seeded_generators, seeded_noise
from piflow_cli.images import image_grid, to_images
from piflow_cli.teachers import family_of
from students import tiny_student


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
    assert cli("sample", str(student), "--seeds", "0", "--output", str(tmp_path), "--no-metadata", "--no-grid", "--quiet").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["000000.png"]
    with Image.open(tmp_path / "000000.png") as image:
        assert "piflow" not in image.text


def test_settings_change_the_picture(cli, student, tmp_path) -> None:
    variants = {"plain": [], "steps": ["--steps", "5"], "substeps": ["--substeps", "2"], "label": ["--labels", "1"]}
    for name, arguments in variants.items():
        assert cli("sample", str(student), "--seeds", "0", "--output", str(tmp_path / name), "--quiet", *arguments).code == 0
    pictures = {pixels(tmp_path / name / "000000.png").tobytes() for name in variants}
    assert len(pictures) == len(variants)


def test_the_adapter_folder_samples_like_its_run(cli, student, tmp_path) -> None:
    for folder, path in (("run", student), ("adapter", student / "adapter")):
        assert cli("sample", str(path), "--seeds", "0", "--output", str(tmp_path / folder), "--quiet").code == 0
    assert (pixels(tmp_path / "run" / "000000.png") == pixels(tmp_path / "adapter" / "000000.png")).all()


def test_a_teacher_is_sampled_by_euler_steps(cli, tiny_teacher, tmp_path) -> None:
    import yaml

    assert cli("sample", "--teacher", str(tiny_teacher), "--steps", "3", "--seeds", "4", "--labels", "1", "--output", str(tmp_path), "--quiet").code == 0
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
    torch.testing.assert_close(sample_teacher(family, model, noise, conditioning, 4, 1.0, Guidance(2.0, (2.0, 3.0))), plain)
    guided = sample_teacher(family, model, noise, conditioning, 4, 1.0, Guidance(2.0))
    assert null["class_labels"].tolist() == [3, 3] and (guided - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--labels", "3"], 2, "label 3 is out of range: this model has classes 0 to 2"),
        (["--seeds", "5-2"], 2, "runs backwards"),
        (["--steps", "0"], 2, "--steps"),
        (["--steps", "-1"], 2, "--steps"),
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
    outcome = cli("sample", str(run))
    assert outcome.code == 2 and "has not finished" in outcome.err and "piflow distill" in outcome.err


def test_a_full_disk_leaves_whole_pictures_only(cli, student, tmp_path, monkeypatch) -> None:
    save = Image.Image.save

    def fills(self, path, *arguments, **options):
        save(self, path, *arguments, **options)
        if "000001" in str(path):
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", fills)
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
