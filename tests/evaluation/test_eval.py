"""`piflow eval` from end to end on tiny students: numbers against what they are made of, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_requests import request
from safetensors.torch import save_file

from piflow_cli.console import Console
from piflow_cli.data.labelled_images import load_images
from piflow_cli.evaluation.compared import open_compared
from piflow_cli.evaluation.extractors.features import FeatureSet
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.metrics.frechet import frechet_distance
from piflow_cli.evaluation.metrics.trajectory import trajectory_errors
from piflow_cli.evaluation.run import named_apart
from piflow_cli.presets.idle import idle_options
from piflow_cli.presets.resolve import load
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.sampling.opened import open_model
from piflow_cli.sampling.request import ImageSpec, SampleRequest
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.sampling.trajectory import relative_error, velocity_errors, walk
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.open import find_student
from piflow_cli.students.run_settings import read_settings
from piflow_cli.students.runs import RunFolder
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.weights.stored import read_safetensors

CPU = torch.device("cpu")
FAST = ["--fine-steps", "4", "--num-images", "12"]


def numbers(outcome) -> dict[tuple[str, int, str], float]:
    assert outcome.code == 0, outcome.err
    return {(row["model"], row.get("nfe"), row["metric"]): row["value"] for row in json.loads(outcome.out)["results"]}


def opened_with_teacher(run: Path, seeds: range):
    opened = open_model(find_student(run), SampleRequest(seeds=tuple(seeds)), device=CPU, console=Console(quiet=True))
    return opened, own_teacher(opened.student, run)


@pytest.fixture(scope="module")
def data(tiny_teacher: Path):
    return load_images(tiny_teacher.parent / "images.safetensors")


def data_shots(data, count: int) -> list[ImageSpec]:
    """Seeds from 0 on, with the labels of the training pictures."""
    return [ImageSpec(seed, int(data[1][seed % len(data[1])])) for seed in range(count)]


def test_distances_are_of_the_students_samples_and_the_data(evaluate, tiny_run, data) -> None:
    found = numbers(evaluate(tiny_run, "--metrics", "fid", "--reference", "data"))
    opened, _ = opened_with_teacher(tiny_run, range(2))
    specs = data_shots(data, len(data[0]))
    samples = sample_student(opened.student, opened.noise(specs), opened.conditioning(specs))
    expected = frechet_distance(moments(samples.flatten(1)), moments(data[0].flatten(1)))
    assert found == {("tiny", 2, "fid"): pytest.approx(expected, rel=1e-5)}


def test_alignment_is_against_the_fine_solution_of_the_same_noise(evaluate, tiny_run, data) -> None:
    found = numbers(evaluate(tiny_run, "--metrics", "alignment", "--teacher-steps", "1,2", *FAST))
    opened, teacher = opened_with_teacher(tiny_run, range(2))
    specs = data_shots(data, 12)
    noise, conditioning = opened.noise(specs), opened.conditioning(specs)
    fine = teacher.sample(noise, conditioning, 4)
    for model, steps, samples in [
        ("tiny", 2, sample_student(opened.student, noise, conditioning)),
        ("teacher", 1, teacher.sample(noise, conditioning, 1)),
        ("teacher", 2, teacher.sample(noise, conditioning, 2)),
    ]:
        assert found[model, steps, "mse"] == pytest.approx((samples - fine).square().mean().item(), rel=1e-5)


def test_perceptual_distance_is_of_pictures_where_it_is_at_hand(evaluate, tiny_run, monkeypatch) -> None:
    asked = []

    def perceptual(ours, theirs):
        asked.append(ours.shape)
        return (ours - theirs).abs().flatten(1).amax(dim=1)

    monkeypatch.setattr("piflow_cli.evaluation.metrics.alignment.open_lpips", lambda device: perceptual)
    found = numbers(evaluate(tiny_run, "--metrics", "alignment", *FAST))
    assert asked == [(12, 1, 4, 4)] and found["tiny", 2, "lpips"] ** 2 >= found["tiny", 2, "mse"]


def test_the_fine_solution_is_a_reference(evaluate, tiny_run) -> None:
    outcome = evaluate(
        tiny_run, "--metrics", "fid,alignment", "--reference", "teacher", "--teacher-steps", "1,4", *FAST
    )
    found = numbers(outcome)
    # The fine solution itself gets no row: it has no distance to itself.
    assert {(model, nfe) for model, nfe, _ in found} == {("teacher", 1), ("tiny", 2)}
    (reference,) = {row["reference"] for row in json.loads(outcome.out)["results"] if row["metric"] == "fid"}
    assert reference == "teacher, 4 steps, same noise"


def test_the_fine_solution_has_a_row_against_data(evaluate, tiny_run) -> None:
    told = ["--metrics", "fid,alignment", "--reference", "data", "--teacher-steps", "1,4", *FAST]
    found = numbers(evaluate(tiny_run, *told))
    rows = {nfe: {name for model, steps, name in found if (model, steps) == ("teacher", nfe)} for nfe in (1, 4)}
    assert rows == {1: {"fid", "mse", "psnr"}, 4: {"fid"}}


def test_trajectory_errors_are_those_of_the_path(evaluate, tiny_run, data) -> None:
    """One batch by hand, several in the command: the same numbers as `piflow
    inspect-policy`, which walks the same path."""
    outcome = evaluate(tiny_run, "--metrics", "trajectory", "--num-images", "12", "--batch-size", "5")
    opened, teacher = opened_with_teacher(tiny_run, range(2))
    specs = data_shots(data, 12)
    conditioning = opened.conditioning(specs)
    expected = []
    for path in walk(opened.student, opened.noise(specs), conditioning, points=8):
        expected += velocity_errors(
            path, lambda x, sigma: teacher.velocity(x, sigma, conditioning), opened.student.facts.shift
        )
    (curve,) = json.loads(outcome.out)["trajectory"].values()
    assert [error["raw"] for error in curve] == [error.raw for error in expected] and len(curve) == 16
    assert [error["squared"] for error in curve] == pytest.approx([error.squared for error in expected], rel=1e-5)
    assert numbers(outcome)["tiny", 2, "velocity-error"] == pytest.approx(relative_error(expected), rel=1e-5)
    assert trajectory_errors(opened, teacher, specs, 12)[3].relative == pytest.approx(curve[3]["relative"], rel=1e-5)


def test_a_second_metric_and_a_second_reference_generate_nothing(evaluate, tiny_run, monkeypatch) -> None:
    numbers(evaluate(tiny_run, "--metrics", "fid,alignment", *FAST))
    monkeypatch.setattr("piflow_cli.evaluation.candidates.sample_student", None)
    monkeypatch.setattr("piflow_cli.sampling.teacher.sample_teacher", None)
    found = numbers(evaluate(tiny_run, "--metrics", "fid,pr,diversity", "--reference", "teacher", *FAST))
    assert ("tiny", 2, "precision") in found and ("tiny", 2, "diversity") in found


def test_several_students_and_evaluations_stand_side_by_side(evaluate, tiny_run, tmp_path) -> None:
    other = shutil.copytree(tiny_run, tmp_path / "other")
    outcome = evaluate(
        tiny_run, "--compare", other, "--steps", "1,3", "--metrics", "fid,speed", "--teacher-steps", "1", *FAST
    )
    found = numbers(outcome)
    assert {(model, nfe) for model, nfe, _ in found} == {
        ("teacher", 1),
        ("tiny", 1),
        ("tiny", 3),
        ("other", 1),
        ("other", 3),
    }
    # A student's pictures do not depend on where it lies.
    assert found["tiny", 1, "fid"] == found["other", 1, "fid"] != found["tiny", 3, "fid"]
    speeds = {metric for model, nfe, metric in found if (model, nfe) == ("tiny", 3)}
    assert {"network-ms", "policy-ms", "images-per-second"} <= speeds and ("teacher", 1, "policy-ms") not in found
    assert sum(row["model"] == "teacher" and row["metric"] == "fid" for row in json.loads(outcome.out)["results"]) == 1


def test_teachers_other_than_the_first_are_called_by_their_preset_and_numbered(tiny_run) -> None:
    def compared(fine_steps: int):
        given = {"students": (str(tiny_run),), "teacher_steps": (1,), "fine_steps": fine_steps, "num_images": 4}
        return open_compared(str(tiny_run), "tiny", request(**given), CPU, Console(quiet=True))

    names: dict[str, str] = {}
    assert [named_apart(compared(4), names).fine.title for _ in range(2)] == ["teacher, 4 steps"] * 2
    other, third = named_apart(compared(8), names), named_apart(compared(6), names)
    assert (other.fine.title, other.teachers[0].title) == ("teacher of tiny, 8 steps", "teacher of tiny, 1 step")
    assert (third.fine.title, third.teachers[0].title) == (
        "teacher of tiny (2), 6 steps",
        "teacher of tiny (2), 1 step",
    )
    assert named_apart(compared(8), names).fine.title == other.fine.title
    assert other.fine.identity == compared(8).fine.identity


def test_everything_at_once_as_people_see_it(cli, tiny_run, tmp_path) -> None:
    folders = ["--output", str(tmp_path / "report"), "--cache", str(tmp_path / "cache")]
    outcome = cli("eval", str(tiny_run), "--fine-steps", "4", "--num-images", "24", "--save-images", *folders)
    assert outcome.code == 0, outcome.err
    assert (
        "FID" in outcome.out
        and "24 images of seeds 0-23, against data of tiny (20 images), extractor pixels, resize none" in outcome.out
    )
    assert "FID: biased upwards: an error bar takes" in outcome.out
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html", "report.json", "quality.png", "error.png", "samples.png", "images",
    }  # fmt: skip
    assert len(list((tmp_path / "report" / "images" / "tiny-2").glob("*.png"))) == 24


def test_pictures_of_students_of_one_name_stay_inside_the_report(cli, tiny_run, tmp_path) -> None:
    runs = [tmp_path / place / "tiny" for place in "ab"]
    for run in runs:
        shutil.copytree(tiny_run, run)
    folders = ["--output", str(tmp_path / "report"), "--cache", str(tmp_path / "cache")]
    given = ["--num-images", "3", "--metrics", "fid", "--teacher-steps", "2", "--save-images"]
    outcome = cli("eval", *map(str, runs), *given, *folders)
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "report" / "images").glob("*-tiny-2/*.png"))) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "cache", "report"]
    assert outcome.err.count("teacher, 2 steps: from the cache") == 1, "what both share is drawn and written once"
    assert len(list((tmp_path / "report" / "images" / "teacher-2").glob("*.png"))) == 3


def test_quick_and_full_say_how_many(evaluate, tiny_run, monkeypatch) -> None:
    monkeypatch.setattr("piflow_cli.evaluation.compared.QUICK_IMAGES", 6)
    monkeypatch.setattr("piflow_cli.evaluation.compared.FULL_CLASSES", 9)
    for protocol, count in {"--quick": 6, "--full": 9}.items():
        outcome = evaluate(tiny_run, protocol, "--metrics", "fid")
        assert {row["images"] for row in json.loads(outcome.out)["results"]} == {count}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "7"], "label 7 is out of range"),
        (["--extractor", "retina"], "there is no extractor retina"),
        (["--reference", "nowhere"], "nowhere"),
        (["--metrics", "is"], "--metrics is: pixels has no classes"),
        (["--metrics", "patch-fid", "--extractor", "pixels"], "patch"),
        (["--metrics", "diversity", "--seeds", "0-2"], "no label or prompt comes twice"),
        (["--metrics", "clip", "--prompts", "PROMPTS"], "is told class labels, not text"),
        (["--inception-weights", "w.pt", "--extractor", "inception"], "w.pt"),
        (["--inception-weights", "w.pt"], "--inception-weights: the extractor is pixels"),
        (["--clip", "c"], "--clip is of the metric clip"),
        (["--height", "64", "--prompts", "PROMPTS"], "is told class labels, not text: --prompts, --height"),
        (["--substeps", "100001"], "--substeps 100001: more than 100,000"),
        (["--reference", "SMALL"], "has 16 features a picture by pixels, and three 3"),
        (["--save-statistics", "x.safetensors"], "keeps those of a folder, and none is given"),
        (["--device", "cuda"], "--device cuda"),
    ],
)
def test_what_cannot_be_measured_says_so_and_makes_nothing(
    evaluate, tiny_run, tmp_path, monkeypatch, arguments, message
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("piflow_cli.evaluation.candidates.sample_student", None)
    monkeypatch.setattr("piflow_cli.sampling.teacher.sample_teacher", None)
    (tmp_path / "prompts.txt").write_text("a fox\n")
    FeatureSet("pixels", "none", "three", 50, moments(torch.randn(50, 3))).save(tmp_path / "three.safetensors")
    files = {"PROMPTS": tmp_path / "prompts.txt", "SMALL": tmp_path / "three.safetensors"}
    outcome = evaluate(tiny_run, *[str(files.get(word, word)) for word in arguments])
    assert outcome.code == 2 and message in json.loads(outcome.err.splitlines()[-1])["error"]
    assert not (tmp_path / "report").exists()


def test_a_cache_that_cannot_be_had_is_refused_first(cli, tiny_run, tmp_path, monkeypatch) -> None:
    """No home, a file in the way, a file system that is read-only: before the student is opened, with what to type."""
    monkeypatch.setattr("piflow_cli.evaluation.run.open_compared", None)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()
    arguments = ["eval", str(tiny_run), "--output", str(tmp_path / "report")]
    outcomes = [cli(*arguments, "--cache", str(tmp_path / "file"))]

    def read_only(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("tempfile.TemporaryDirectory", read_only)
        outcomes.append(cli(*arguments))
    monkeypatch.setattr(Path, "home", homeless)
    outcomes.append(cli(*arguments))
    for outcome in outcomes:
        assert outcome.code == 2 and len(outcome.err.splitlines()) == 2, outcome.err
    for outcome in (outcomes[0], outcomes[2]):
        assert "--cache DIR" in outcome.err
    assert (
        "is a file" in outcomes[0].err
        and "Read-only file system" in outcomes[1].err
        and "HOME is not set" in outcomes[2].err
    )


def homeless():
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_the_named_cache_is_enough(evaluate, tiny_run, monkeypatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert ("tiny", 2, "fid") in numbers(evaluate(tiny_run, "--metrics", "fid", *FAST))


def test_statistics_without_features_allow_no_kernel_distance(evaluate, tiny_run, tmp_path) -> None:
    statistics = moments(torch.randn(50, 16))
    FeatureSet("pixels", "none", "fifty", 50, statistics).save(tmp_path / "fifty.safetensors")
    refused = evaluate(tiny_run, "--reference", tmp_path / "fifty.safetensors", "--metrics", "pr", *FAST)
    assert refused.code == 2 and "holds mean and covariance alone" in refused.err
    # Where it was left to us, it is left out.
    found = numbers(evaluate(tiny_run, "--reference", tmp_path / "fifty.safetensors", *FAST))
    assert ("tiny", 2, "fid") in found and ("tiny", 2, "precision") not in found


def test_a_reference_of_another_extractor_is_refused(evaluate, tiny_run, tmp_path) -> None:
    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    outcome = evaluate(tiny_run, "--reference", tmp_path / "adm.npz", *FAST)
    assert outcome.code == 2 and "pixels" in outcome.err and "inception-2015-12-05" in outcome.err
    assert "choose the reference's own: --extractor inception-tf; or" in json.loads(outcome.err)["hint"]


def test_what_is_no_student_is_refused(evaluate, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in {"nowhere": "there is no student at", "empty": "is not a student"}.items():
        outcome = evaluate(tmp_path / path)
        assert outcome.code == 2 and message in outcome.err


def test_a_student_without_its_teacher_is_measured_without(evaluate, tiny_run, tmp_path) -> None:
    adapter = shutil.copytree(tiny_run / "adapter", tmp_path / "alone")
    reference = tmp_path / "pictures.safetensors"
    FeatureSet("pixels", "none", "fifty", 50, moments(torch.randn(50, 16))).save(reference)
    outcome = evaluate(adapter, "--reference", reference, "--num-images", "12")
    assert {metric for _, _, metric in numbers(outcome)} == {"fid", "network-ms", "policy-ms", "images-per-second"}
    assert any("no alignment: the student's teacher is tiny" in note for note in json.loads(outcome.out)["notes"])
    for arguments in (
        ["--metrics", "alignment"],
        ["--metrics", "fid", "--reference", "teacher"],
        ["--teacher-steps", "2", "--metrics", "speed"],
    ):
        refused = evaluate(adapter, *arguments)
        assert refused.code == 2 and "needs the student's teacher" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "{} is compared with its teacher where no --reference is named, and the student's teacher is tiny"),
        (["--reference", "teacher"], "--reference teacher needs the student's teacher: the student's teacher is tiny"),
        (["--reference", "data"], "--reference data is what the student was trained on: the student's teacher is tiny"),
    ],
)
def test_a_student_of_no_known_preset_says_what_would_help(evaluate, tiny_run, tmp_path, arguments, message) -> None:
    adapter = shutil.copytree(tiny_run / "adapter", tmp_path / "alone")
    refused = json.loads(evaluate(adapter, *arguments).err)
    assert refused["error"].startswith(message.format(adapter))
    assert refused["hint"] == "name what to compare with: --reference DIR; or its teacher: --teacher FILE.yaml"


def test_a_student_without_its_run_is_compared_with_the_teacher_of_a_preset(
    evaluate, tiny_run, tiny_teacher, tmp_path
) -> None:
    adapter = shutil.copytree(tiny_run / "adapter", tmp_path / "tiny")
    arguments = ["--metrics", "fid,alignment", "--reference", "teacher", *FAST]
    assert numbers(evaluate(adapter, "--teacher", tiny_teacher, *arguments)) == numbers(evaluate(tiny_run, *arguments))


def test_one_student_is_in_memory_at_a_time(evaluate, tiny_run, tmp_path, monkeypatch) -> None:
    from piflow_cli.evaluation import run

    other = shutil.copytree(tiny_run, tmp_path / "other")
    models, alive = [], []

    def opening(*arguments):
        alive.append([model() is not None for model in models])
        compared = open_compared(*arguments)
        models.append(weakref.ref(compared.opened.student.model))
        return compared

    monkeypatch.setattr(run, "open_compared", opening)
    numbers(evaluate(tiny_run, other, *FAST))
    assert alive == [[], [False]]


def test_runs_of_one_preset_with_other_data_have_their_own_reference(evaluate, tiny_run, tmp_path) -> None:
    """`--set data.images=FILE` leaves the preset's name as it is."""
    settings = RunFolder(tiny_run).settings
    other = shutil.copytree(tiny_run, tmp_path / "other")
    preset = read_settings(settings)
    _, tensors = read_safetensors(Path(preset.data.images))
    save_file({"images": tensors["images"].flip(0) // 2, "labels": tensors["labels"]}, tmp_path / "dark.safetensors")
    RunFolder(other).write_settings(
        replace(preset, data=replace(preset.data, images=str(tmp_path / "dark.safetensors")))
    )
    both = numbers(evaluate(tiny_run, other, "--metrics", "fid", "--seeds", "0-11", "--labels", "0"))
    alone = numbers(evaluate(other, "--metrics", "fid", "--seeds", "0-11", "--labels", "0"))
    assert both["other", 2, "fid"] == alone["other", 2, "fid"] != both["tiny", 2, "fid"]


def test_a_run_without_its_pictures_is_measured_against_others(evaluate, tiny_run, tmp_path) -> None:
    """A run is carried to another machine, and its data are not."""
    other = shutil.copytree(tiny_run, tmp_path / "other")
    preset = read_settings(RunFolder(other).settings)
    gone = str(tmp_path / "gone.safetensors")
    RunFolder(other).write_settings(replace(preset, data=replace(preset.data, images=gone)))
    found = numbers(evaluate(other, "--metrics", "fid", "--num-images", "6", "--reference", "teacher"))
    assert found["other", 2, "fid"] >= 0
    outcome = evaluate(other, "--metrics", "fid", "--num-images", "6")
    assert outcome.code == 2 and f"trains on images ({gone}), which are no pictures on this machine" in outcome.err
    assert "--reference PATH" in outcome.err and "--base" not in outcome.err


def test_students_of_other_classes_have_their_own_above_their_pictures(evaluate, tiny_run, tmp_path) -> None:
    other = shutil.copytree(tiny_run, tmp_path / "other")
    preset = read_settings(RunFolder(other).settings)
    _, tensors = read_safetensors(Path(preset.data.images))
    turned = {"images": tensors["images"], "labels": (tensors["labels"] + 1) % 3}
    save_file(turned, tmp_path / "turned.safetensors")
    data = replace(preset.data, images=str(tmp_path / "turned.safetensors"))
    RunFolder(other).write_settings(replace(preset, data=data))
    assert evaluate(tiny_run, other, "--metrics", "speed", "--num-images", "2").code == 0
    page = (tmp_path / "report" / "report.html").read_text()
    for name, labels in {"tiny": (0, 1), "other": (1, 2)}.items():
        assert all(f'alt="{name}, 2 NFE, class {label}"' in page for label in labels)
    assert page.count('class="gallery"') == 2


def test_the_report_tells_the_settings_that_were_given(evaluate, tiny_run) -> None:
    told = json.loads(evaluate(tiny_run, "--metrics", "fid", "--substeps", "4", "--temperature", "0.5", *FAST).out)
    assert (told["substeps"], told["temperature"]) == (4, 0.5) and "labels" not in told


@pytest.mark.parametrize("kind", ["gm", "momentum"])
def test_what_does_nothing_to_a_policy_is_said(evaluate, tiny_teacher, tmp_path, kind: str) -> None:
    preset, family = load(str(tiny_teacher)), family_of("dit")
    save_adapter(
        student_of(
            family.load(Path(preset.teacher.base)), family, replace(StudentFacts.of(preset), policy=kind), seed=0
        ),
        tmp_path / kind,
    )
    outcome = evaluate(
        tmp_path / kind, "--metrics", "speed", "--temperature", "0.5", "--substeps", "8", "--num-images", "4"
    )
    said = [json.loads(line).get("warning") for line in outcome.err.splitlines()]
    assert outcome.code == 0 and [line for line in said if line is not None and "--" in line] == [
        f"{kind}: {line}" for line in idle_options(kind, preset.policy.nfe, 8, 0.5)
    ]


def pictures(tmp_path: Path, *names: str) -> list[Path]:
    """Folders of six random grey pictures of 4 x 4."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for name in names:
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.fromarray(generator.integers(0, 256, (4, 4), dtype=np.uint8)).save(tmp_path / name / f"{number}.png")
    return [tmp_path / name for name in names]


@pytest.mark.parametrize("metrics", ["fid,kid,pr", "fid"])
def test_saved_statistics_are_the_reference_that_their_pictures_are_bit_for_bit(
    cli, evaluate, tmp_path, metrics: str
) -> None:
    one, two = pictures(tmp_path, "one", "two")
    file = tmp_path / "two.safetensors"
    saved = evaluate("--images", two, "--extractor", "pixels", "--save-statistics", file)
    assert saved.code == 0, saved.err
    assert json.loads(saved.out)["statistics"] == str(file) and not (tmp_path / "report").exists()
    measured = [
        evaluate("--images", one, "--reference", reference, "--extractor", "pixels", "--metrics", metrics)
        for reference in (two, file)
    ]
    assert numbers(measured[0]) == numbers(measured[1]) != {}
    told = ["eval", "--images", str(two), "--extractor", "pixels", "--save-statistics", str(file)]
    assert cli(*told, "--overwrite").code == 0
    again = cli(*told)
    assert again.code == 2 and "is there already" in again.err


def test_statistics_of_very_many_pictures_say_what_they_leave_out(evaluate, tmp_path, monkeypatch) -> None:
    one, two = pictures(tmp_path, "one", "two")
    monkeypatch.setattr("piflow_cli.evaluation.folder_run.MOST_SAVED", 5)
    outcome = evaluate("--images", two, "--extractor", "pixels", "--save-statistics", tmp_path / "two.safetensors")
    assert outcome.code == 0 and "holds mean and covariance alone, as of all folders above 5 pictures" in outcome.err
    refused = evaluate(
        "--images", one, "--reference", tmp_path / "two.safetensors", "--extractor", "pixels", "--metrics", "kid"
    )
    assert refused.code == 2 and "mean and covariance alone" in refused.err


def test_pictures_that_are_measured_can_be_saved_too(evaluate, tmp_path) -> None:
    one, two = pictures(tmp_path, "one", "two")
    arguments = ["--images", one, "--reference", two, "--extractor", "pixels", "--metrics", "fid"]
    outcome = evaluate(*arguments, "--save-statistics", tmp_path / "one.safetensors")
    assert numbers(outcome) == numbers(evaluate(*arguments)) and (tmp_path / "report" / "report.json").is_file()
    same = numbers(
        evaluate(
            "--images", one, "--reference", tmp_path / "one.safetensors", "--extractor", "pixels", "--metrics", "fid"
        )
    )
    assert list(same.values()) == pytest.approx([0], abs=1e-6)


def test_pictures_alone_are_measured_without_any_model(evaluate, tmp_path) -> None:
    pictures(tmp_path, "one", "two")
    outcome = evaluate(
        "--images", tmp_path / "one", "--reference", tmp_path / "two", "--extractor", "pixels", "--metrics", "fid"
    )
    (row,) = json.loads(outcome.out)["results"]
    assert row["metric"] == "fid" and row["images"] == row["reference_images"] == 6 and row["value"] > 0
    refused = evaluate(
        "--images", tmp_path / "one", "--reference", tmp_path / "two", "--extractor", "pixels", "--num-images", "7"
    )
    assert refused.code == 2 and "holds 6 readable pictures, and 7 are wanted" in refused.err


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux has a folder in which nobody makes files")
def test_statistics_that_cannot_be_saved_are_named_as_they_were_typed(cli, tmp_path) -> None:
    place = "/proc/foo.safetensors"
    outcome = cli("eval", "--images", str(tmp_path), "--extractor", "pixels", "--save-statistics", place)
    first, second = outcome.err.splitlines()
    assert (outcome.code, second) == (2, "  → choose a folder you may write to: --save-statistics FILE")
    assert first == f"Error: --save-statistics {place}: /proc cannot be written to: no files can be made in it"


@pytest.mark.parametrize(
    ("images", "reference", "message"),
    [
        ("absent", "here", "there is no folder absent"),
        ("~/absent", "here", "there is no folder {home}/absent"),
        ("here", "absent", "there is no reference absent"),
        ("here", "absent/", "there is no reference absent/"),
        ("here", "absent.npz", "there is no reference absent.npz"),
        ("here", "~/absent.safetensors", "there is no reference {home}/absent.safetensors"),
    ],
)
def test_pictures_that_are_not_there_are_named_before_inception_is_looked_for(
    cli, tmp_path, monkeypatch, images, reference, message
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "h").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("piflow_cli.evaluation.run.extractor_of", None)
    outcome = cli("eval", "--images", images, "--reference", reference)
    # The beginning, since a long path is shortened.
    said = f"Error: {message.format(home=tmp_path / 'h')}"[:60]
    assert outcome.code == 2 and outcome.err.startswith(said)
