from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import seeded
from inception import save_random_inception

from piflow_cli.console import Console
from piflow_cli.errors import UsageError
from piflow_cli.evaluation import distributions, folder_run, run
from piflow_cli.evaluation.distributions import measure
from piflow_cli.evaluation.extractors.features import FeatureSet
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.folder_run import FolderRequest, evaluate_folder
from piflow_cli.evaluation.metrics.frechet import frechet_distance
from piflow_cli.evaluation.metrics.inception_score import inception_score
from piflow_cli.evaluation.metrics.kid import kernel_distance
from piflow_cli.evaluation.metrics.precision_recall import precision_recall
from piflow_cli.evaluation.request import EvalRequest
from piflow_cli.reports.images import save_png, to_images

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_cache")


def folder_of(folder: Path, images: torch.Tensor) -> Path:
    for index, picture in enumerate(to_images(images)):
        save_png(picture, folder / f"{index:03}.png")
    return folder


def digits(count: int, seed: int = 0, side: int = 8) -> torch.Tensor:
    """Grey pictures whose values are those of 8-bit files."""
    levels = torch.randint(0, 256, (count, 1, side, side), generator=seeded(seed))
    return levels.float() / 127.5 - 1


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return folder_of(tmp_path / "ours", digits(60)), folder_of(tmp_path / "theirs", digits(50, 1))


def test_the_numbers_are_those_of_the_pictures_each_with_its_protocol(folders) -> None:
    numbers = evaluate_folder(
        FolderRequest(folders[0], str(folders[1]), "pixels", ("fid", "kid", "pr")), CPU, Console(quiet=True)
    )
    ours, theirs = digits(60).flatten(1), digits(50, 1).flatten(1)
    found = {number.metric: number for number in numbers}
    assert list(found) == ["fid", "kid", "precision", "recall"]
    assert found["fid"].value == pytest.approx(frechet_distance(moments(ours), moments(theirs)), rel=1e-5)
    assert found["kid"].value == pytest.approx(kernel_distance(ours, theirs), rel=1e-4)
    assert (found["precision"].value, found["recall"].value) == precision_recall(ours, theirs)
    for number in numbers:
        assert (number.images, number.reference_images) == (60, 50)
        assert (number.extractor, number.resize, number.reference) == ("pixels", "none", str(folders[1]))


def test_a_fid_of_enough_pictures_has_an_interval_and_one_of_fewer_says_how_many(tmp_path: Path) -> None:
    ours, theirs = (
        folder_of(tmp_path / "ours", digits(120, side=3)),
        folder_of(tmp_path / "theirs", digits(50, 1, side=3)),
    )
    request = FolderRequest(ours, str(theirs), "pixels", ("fid",))
    (number,) = evaluate_folder(request, CPU, Console(quiet=True))
    assert number.low < number.value and number.low <= number.high and number.at == 10_000
    assert number.low <= number.estimate <= number.high and number.note is None
    (few,) = evaluate_folder(FolderRequest(ours, str(theirs), "pixels", ("fid",), count=30), CPU, Console(quiet=True))
    assert (
        few.images == few.reference_images == 30
        and few.low is None
        and few.note.startswith("biased upwards: an error bar takes")
    )


def test_by_default_it_measures_what_can_be_and_says_what_cannot(folders, capsys, monkeypatch) -> None:
    request = FolderRequest(folders[0], str(folders[1]), "pixels")
    assert {number.metric for number in evaluate_folder(request, CPU, Console())} == {
        "fid",
        "kid",
        "precision",
        "recall",
    }
    assert "is is left out: pixels has no classes" in capsys.readouterr().err
    monkeypatch.setattr(distributions, "find_spec", lambda name: None)
    assert {number.metric for number in evaluate_folder(request, CPU, Console())} == {"fid", "precision", "recall"}
    assert 'kid is left out: it needs pip install "piflow[eval]"' in capsys.readouterr().err


def test_the_digits_classifier_has_classes(folders) -> None:
    request = FolderRequest(folders[0], str(folders[1]), "digits-classifier", ("is",))
    (number,) = evaluate_folder(request, CPU, Console(quiet=True))
    assert 1 <= number.value <= 10 and number.reference is None
    extractor = folder_run.open_extractor("digits-classifier", CPU)
    assert number.value == pytest.approx(inception_score(extractor.logits(extractor.features(digits(60)))), rel=1e-4)


def test_patch_fid_compares_the_middles(tmp_path: Path) -> None:
    """Pictures that differ at their borders alone: another FID, and none of their patches."""
    middle = torch.randint(0, 256, (4, 1, 301, 301), generator=seeded()).float() / 127.5 - 1
    other = middle.clone()
    other[..., 0, :] = 1
    ours, theirs = folder_of(tmp_path / "ours", middle), folder_of(tmp_path / "theirs", other)
    weights = save_random_inception(tmp_path)
    request = FolderRequest(
        ours, str(theirs), "inception", ("patch-fid",), inception_weights=weights, trust_weights=True
    )
    (patch,) = evaluate_folder(request, CPU, Console(quiet=True))
    assert (
        patch.metric == "patch-fid"
        and "centre patch of 299" in patch.resize
        and patch.value == pytest.approx(0, abs=1e-6)
    )


def test_pictures_of_several_sizes_need_an_extractor_that_resizes(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "ours", digits(3))
    save_png(to_images(digits(1, side=9))[0], ours / "x.png")
    with pytest.raises(UsageError, match="several sizes give 64 and 81 features"):
        evaluate_folder(FolderRequest(ours, str(ours), "pixels"), CPU, Console(quiet=True))


def test_wrong_requests_fail_before_anything_is_computed(folders, monkeypatch) -> None:
    monkeypatch.setattr(folder_run, "folder_features", None)
    for request, message in [
        (FolderRequest(folders[0], str(folders[1]), "pixels", ("fidd",)), "no metric fidd"),
        (FolderRequest(folders[0] / "absent", str(folders[1]), "pixels"), "no folder"),
        (FolderRequest(folders[0], str(folders[1] / "absent"), "pixels"), "no reference"),
        (
            FolderRequest(folders[0], str(folders[1]), "pixels", count=55),
            "holds 50 readable pictures, and 55 are wanted",
        ),
        (FolderRequest(folders[0], str(folders[1]), "fancy"), "no extractor fancy"),
    ]:
        with pytest.raises(UsageError, match=message):
            evaluate_folder(request, CPU, Console(quiet=True))


def test_metrics_of_single_pictures_need_more_than_moments(folders, tmp_path: Path) -> None:
    extractor = folder_run.open_extractor("pixels", CPU)
    reference = folder_run.open_reference(str(folders[1]), extractor, Console(quiet=True))
    replace(reference, features=None).save(tmp_path / "moments.safetensors")
    request = FolderRequest(folders[0], str(tmp_path / "moments.safetensors"), "pixels")
    assert [number.metric for number in evaluate_folder(request, CPU, Console(quiet=True))] == ["fid"]
    with pytest.raises(UsageError, match="--metrics pr: .* holds mean and covariance alone"):
        evaluate_folder(replace(request, metrics=("pr",)), CPU, Console(quiet=True))


def test_the_distance_of_many_pictures_needs_their_moments_alone(folders, monkeypatch) -> None:
    """And is the same, but for the error bar that many pictures do without."""
    request = FolderRequest(folders[0], str(folders[1]), "pixels", ("fid",))
    (few,) = evaluate_folder(request, CPU, Console(quiet=True))
    kept = []
    original = folder_run.folder_features
    monkeypatch.setattr(folder_run, "folder_features", lambda *args: kept.append(args[-1]) or original(*args))
    monkeypatch.setattr(folder_run, "TARGET", 60)
    (many,) = evaluate_folder(request, CPU, Console(quiet=True))
    assert kept == [False] and many.value == few.value


def test_a_reference_is_kept_where_it_was_asked_to_be(folders, tmp_path: Path) -> None:
    request = FolderRequest(folders[0], str(folders[1]), "pixels", ("fid",), cache=tmp_path / "elsewhere")
    evaluate_folder(request, CPU, Console(quiet=True))
    assert len(list((tmp_path / "elsewhere" / "statistics").iterdir())) == 1 and not (tmp_path / "cache").exists()


def test_the_error_bar_of_same_noise_leaves_rows_out_of_both_sides() -> None:
    theirs = torch.randn(60, 3, generator=seeded(), dtype=torch.float64)
    step = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    ours, reference = (FeatureSet("pixels", "none", "x", 60, moments(rows), rows) for rows in (theirs + step, theirs))
    extractor = folder_run.open_extractor("pixels", CPU)
    (apart,) = measure(["fid"], ours, reference, extractor)
    (together,) = measure(["fid"], ours, reference, extractor, same_noise=True)
    assert apart.value == together.value == pytest.approx(1)
    # All of the distance is the step; none of it is owed to the noise.
    assert together.high - together.low == pytest.approx(0, abs=1e-6) and apart.high - apart.low > 0.1


@pytest.mark.parametrize(
    ("second", "said"),
    [("nothing", "there is no extractor nothing"), ("dinov2:{}/nowhere", "nowhere")],
    ids=["unknown", "without weights"],
)
def test_all_extractors_are_there_before_the_first_one_measures(cli, folders, monkeypatch, tmp_path, second, said):
    monkeypatch.setattr(run, "evaluate_folder", lambda *given: pytest.fail("measures"))
    names = ["--extractor", "pixels", "--extractor", second.format(tmp_path)]
    outcome = cli("eval", "--images", str(folders[0]), "--reference", str(folders[1]), "--metrics", "fid", *names)
    assert outcome.code == 2 and said in outcome.err


def test_weights_of_inception_are_for_inception_alone(folders) -> None:
    request = EvalRequest(
        students=(), images=folders[0], reference=str(folders[1]), extractors=("pixels", "inception"),
        inception_weights=Path("weights.pt"),
    )  # fmt: skip
    request.check()
    assert [(one.extractor, one.inception_weights) for one in run.folder_requests(request)] == [
        ("pixels", None),
        ("inception", Path("weights.pt")),
    ]
