from __future__ import annotations

import io
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from helpers import seeded
from inception import save_random_inception
from safetensors.torch import save_file

from piflow_cli.console import Console
from piflow_cli.data.labelled_images import load_images
from piflow_cli.errors import PiflowError, RunError, UsageError
from piflow_cli.evaluation import references
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.extractors.clean_fid import clean_fid_module, clean_fid_statistics
from piflow_cli.evaluation.extractors.moments import MOST_FEATURES, moments
from piflow_cli.evaluation.metrics.frechet import frechet_distance
from piflow_cli.evaluation.references import npz_statistics, open_reference
from piflow_cli.presets.resolve import load, presets_root, resolve
from piflow_cli.reports.images import save_png, to_images

CPU = torch.device("cpu")
PIXELS = open_extractor("pixels", CPU)
pytestmark = pytest.mark.usefixtures("own_cache")


def opened(text: str | Path, extractor=PIXELS, **options):
    return open_reference(str(text), extractor, Console(quiet=True), **options)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return {
        name: open_extractor(name, CPU, save_random_inception(tmp_path_factory.mktemp("w")), trust=True)
        for name in ("inception", "inception-tf")
    }


def folder_of(images: torch.Tensor, folder: Path) -> Path:
    for index, picture in enumerate(to_images(images)):
        save_png(picture, folder / f"{index:03}.png")
    return folder


def test_data_is_the_training_set() -> None:
    images, _ = load_images(presets_root() / "digits" / "images.safetensors")
    found = opened("data", preset=load("digits"))
    assert found.count == 1797 and torch.equal(found.features, images.flatten(1)) and "digits" in found.source
    assert torch.equal(opened("data", preset=load("digits"), count=5).features, images[:5].flatten(1))
    with pytest.raises(UsageError, match="holds 1797 pictures, and 1798 are wanted"):
        opened("data", preset=load("digits"), count=1798)


def test_data_of_captioned_pictures_are_those_that_training_takes(tmp_path: Path) -> None:
    folder = folder_of(torch.rand(5, 3, 4, 4, generator=seeded()) * 2 - 1, tmp_path / "pictures")
    for limit, count in (("null", 5), ("3", 3)):
        preset = resolve("flux-dev", None, [f"data.captioned={folder}", f"data.limit={limit}"], {})
        assert opened("data", preset=preset).count == count


def test_data_of_a_student_without_pictures_and_of_no_student() -> None:
    with pytest.raises(UsageError, match="imagenet-fm trains on labels, which are no pictures"):
        opened("data", preset=load("imagenet-fm"))
    with pytest.raises(UsageError, match="the preset flux-dev names nothing to train on"):
        opened("data", preset=load("flux-dev"))
    with pytest.raises(UsageError, match="no student is given"):
        opened("data")


def test_a_folder_and_its_saved_statistics_are_the_same_reference_bit_for_bit(tmp_path: Path) -> None:
    images = torch.rand(12, 1, 4, 4, generator=seeded()) * 2 - 1
    folder = folder_of(images, tmp_path / "pictures")
    direct = opened(folder)
    direct.save(tmp_path / "saved.safetensors")
    saved = opened(tmp_path / "saved.safetensors")
    ours = moments(torch.randn(40, 16, generator=seeded(1)))
    assert frechet_distance(ours, saved.moments) == frechet_distance(ours, direct.moments)
    torch.testing.assert_close(direct.features, images.flatten(1), rtol=0, atol=0.5 / 127.5 + 1e-6)
    assert saved.count == 12 and saved.source == str(folder)


def test_a_folder_is_looked_at_once_until_something_in_it_changes(tmp_path: Path, monkeypatch) -> None:
    """In the user's cache; other extractors and other numbers of pictures have their own entry."""
    folder = folder_of(torch.rand(6, 1, 8, 8, generator=seeded()) * 2 - 1, tmp_path / "pictures")
    looked = []
    original = references.folder_features
    monkeypatch.setattr(references, "folder_features", lambda *args: looked.append(1) or original(*args))
    first, again = opened(folder), opened(folder)
    assert len(looked) == 1 and frechet_distance(first.moments, again.moments) == pytest.approx(0, abs=1e-9)
    assert torch.equal(first.features, again.features)
    assert (
        opened(folder, count=5).count == 5 and opened(folder, open_extractor("digits-classifier", CPU)).dimension == 64
    )
    assert len(looked) == 3 and len(list((tmp_path / "cache" / "piflow" / "statistics").rglob("*.safetensors"))) == 3
    save_png(to_images(torch.zeros(1, 1, 8, 8))[0], folder / "003.png")
    assert not torch.equal(opened(folder).features[3], first.features[3]) and len(looked) == 4
    opened(folder, cache=tmp_path / "elsewhere")
    assert len(looked) == 5


def test_more_pictures_than_a_reference_has_are_refused(tmp_path: Path) -> None:
    folder = folder_of(torch.zeros(3, 1, 4, 4), tmp_path / "pictures")
    with pytest.raises(UsageError, match="holds 3 readable pictures, and 4 are wanted"):
        opened(folder, count=4)
    opened(folder).save(tmp_path / "saved.safetensors")
    with pytest.raises(UsageError, match="made of 3 pictures, and 4 are wanted"):
        opened(tmp_path / "saved.safetensors", count=4)


def test_statistics_of_another_extractor_are_refused_with_both_named(tmp_path: Path, inception) -> None:
    opened("data", preset=load("digits"), count=20).save(tmp_path / "saved.safetensors")
    with pytest.raises(
        UsageError, match=r"made with pixels \(resize: none\).*seen by inception-2015-12-05 \(resize: clean"
    ):
        opened(tmp_path / "saved.safetensors", inception["inception"])


def adm_file(path: Path, dimension: int = 2048, **changes) -> Path:
    arrays = {"mu": np.arange(dimension, dtype=np.float32), "sigma": np.eye(dimension), "arr_0": np.zeros(3)} | changes
    np.savez(path, **arrays)
    return path


def test_adm_statistics_are_for_the_network_that_resizes_by_itself(tmp_path: Path, inception) -> None:
    path = adm_file(tmp_path / "adm.npz")
    found = opened(path, inception["inception-tf"])
    assert (
        found.moments.mean.dtype == torch.float64
        and found.moments.mean[5] == 5
        and found.moments.covariance.trace() == 2048
    )
    assert found.count == 0 and found.features is None and found.source == "adm.npz"
    with pytest.raises(UsageError, match=r"adm.npz was made with .*\(resize: tensorflow, 299.*\(resize: clean, 299"):
        opened(path, inception["inception"])


def test_npz_files_that_are_damaged_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no statistics at"):
        opened(tmp_path / "absent.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(UsageError, match="lacks the arrays mu and sigma"):
        opened(tmp_path / "other.npz")
    whole = adm_file(tmp_path / "cut.npz", 10).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="cut.npz cannot be read"):
        opened(tmp_path / "cut.npz")
    # An array of objects is a pickle, and none is ever loaded.
    with pytest.raises(RunError, match="pickled.npz cannot be read"):
        opened(adm_file(tmp_path / "pickled.npz", mu=np.array([{}], dtype=object)))
    with pytest.raises(UsageError, match="has complex numbers"):
        opened(adm_file(tmp_path / "complex.npz", sigma=np.zeros((2048, 2048), np.complex64)))


def test_a_clean_fid_name_is_kept_in_the_user_s_cache(tmp_path: Path, monkeypatch, inception) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fetched = []

    def fetch(url: str, path: str, progress: bool) -> None:
        fetched.append(url.rpartition("/")[2])
        adm_file(Path(path).with_suffix(".npz")).rename(path)

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    package = sorted(Path(clean_fid_module("features").__file__).parent.rglob("*.npz"))
    for _ in range(2):
        found = opened("clean-fid:cifar10/32/train", inception["inception"])
    assert fetched == ["cifar10_clean_train_32.npz"]
    assert (tmp_path / "piflow" / "statistics" / fetched[0]).is_file()
    assert sorted(Path(clean_fid_module("features").__file__).parent.rglob("*.npz")) == package
    assert found.moments.mean[7] == 7 and found.source == "clean-fid:cifar10/32/train"
    with pytest.raises(UsageError, match=r"resize: clean.*resize: tensorflow"):
        opened("clean-fid:cifar10/32/train", inception["inception-tf"])


def test_a_clean_fid_name_without_network_or_of_another_form(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fetch(url: str, path: str, progress: bool) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    with pytest.raises(
        RunError, match="ffhq_clean_train_256.npz is not on this machine and cannot be downloaded: no network"
    ) as caught:
        opened("clean-fid:ffhq/256/train")
    assert str(tmp_path / "piflow" / "statistics") in caught.value.hint and "--reference DIR" in caught.value.hint
    with pytest.raises(UsageError, match="no name of clean-fid's"):
        opened("clean-fid:ffhq/256")


def test_a_reference_that_is_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no reference") as caught:
        opened(tmp_path / "absent")
    assert "clean-fid:NAME" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("notes.txt", "is a .txt file"),
        ("samples.ZIP", "is a .zip file"),
        ("picture.png", "is one picture"),
        ("statistics", "is a file without a suffix"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).write_text("words")
    with pytest.raises(UsageError, match=f"{name} {what}, and that is no reference") as caught:
        opened(tmp_path / name)
    assert "a folder of pictures, a .safetensors or .npz file of statistics" in caught.value.hint


def test_what_is_no_file_at_all_is_no_reference() -> None:
    with pytest.raises(UsageError, match="/dev/null is neither a file nor a folder"):
        opened("/dev/null")


def test_suffixes_of_statistics_may_be_in_capitals(tmp_path: Path, inception) -> None:
    adm_file(tmp_path / "a.npz").rename(tmp_path / "A.NPZ")
    assert opened(tmp_path / "A.NPZ", inception["inception-tf"]).source == "A.NPZ"


def test_moments_alone_are_kept_of_a_folder_where_nothing_else_is_wanted(tmp_path: Path) -> None:
    folder = folder_of(torch.rand(6, 1, 4, 4, generator=seeded()) * 2 - 1, tmp_path / "pictures")
    alone, whole = opened(folder, keep=False), opened(folder)
    assert alone.features is None and whole.features is not None
    assert torch.equal(alone.moments.mean, whole.moments.mean) and torch.equal(
        alone.moments.covariance, whole.moments.covariance
    )


@pytest.mark.parametrize(
    ("tensors", "levels", "message"),
    [
        ({"images": torch.zeros(3, 16, dtype=torch.uint8), "labels": torch.arange(3)}, "255", "are not \\(N, H, W\\)"),
        ({"images": torch.zeros(3, 4, 4), "labels": torch.arange(3)}, "255", "of torch.float32 and labels"),
        (
            {"images": torch.zeros(3, 2, 4, 4, dtype=torch.uint8), "labels": torch.arange(3)},
            "255",
            "are not \\(N, H, W\\)",
        ),
        (
            {"images": torch.zeros(3, 4, 4, dtype=torch.uint8), "labels": torch.arange(3) - 1},
            "255",
            "whole numbers from 0 on",
        ),
        ({"images": torch.zeros(3, 4, 4, dtype=torch.uint8), "labels": torch.arange(2)}, "255", "labels \\(2,\\)"),
        ({"images": torch.zeros(3, 4, 4, dtype=torch.uint8), "labels": torch.zeros(3)}, "255", "float32 are not"),
        ({"images": torch.zeros(3, 4, 4, dtype=torch.uint8), "labels": torch.arange(3)}, "white", "no white value"),
        ({"images": torch.zeros(3, 4, 4, dtype=torch.uint8), "labels": torch.arange(3)}, "0", "no white value"),
    ],
)
def test_labelled_pictures_of_another_form_are_refused(
    tmp_path: Path, tensors: dict, levels: str, message: str
) -> None:
    save_file(tensors, tmp_path / "images.safetensors", {"levels": levels})
    with pytest.raises(UsageError, match=message):
        load_images(tmp_path / "images.safetensors")


def test_a_damaged_entry_of_the_cache_is_made_again_in_the_same_run(tmp_path: Path) -> None:
    folder = folder_of(torch.rand(6, 1, 4, 4, generator=seeded()) * 2 - 1, tmp_path / "pictures")
    first = opened(folder)
    (entry,) = (tmp_path / "cache" / "piflow" / "statistics").rglob("*.safetensors")
    whole = entry.read_bytes()
    for place in (7, 30, len(whole) // 2, len(whole) - 1):
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        again = opened(folder)
        assert torch.equal(again.features, first.features) and torch.equal(
            again.moments.covariance, first.moments.covariance
        )
        assert entry.read_bytes() == whole


def test_what_was_left_out_is_said_each_time_from_the_cache_and_from_saved_statistics_too(
    tmp_path: Path, capsys
) -> None:
    folder = folder_of(torch.rand(6, 3, 16, 16, generator=seeded()) * 2 - 1, tmp_path / "pictures")
    cut = folder / "002.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    for _ in range(2):
        found = open_reference(str(folder), PIXELS, Console())
        assert "1 files left out, damaged: 002.png" in capsys.readouterr().err and found.count == 5
    found.save(tmp_path / "saved.safetensors")
    assert opened(tmp_path / "saved.safetensors").warnings == found.warnings
    open_reference(str(tmp_path / "saved.safetensors"), PIXELS, Console())
    assert "damaged: 002.png" in capsys.readouterr().err


def header_only(path: Path, **shapes: tuple[int, ...]) -> None:
    """A file of some bytes that claims arrays of these shapes."""
    with ZipFile(path, "w") as archive:
        for member, claimed in ({"mu": (2048,), "sigma": (2048, 2048)} | shapes).items():
            content = io.BytesIO()
            np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": claimed})
            archive.writestr(f"{member}.npy", content.getvalue())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("sigma", (1 << 30, 1 << 30), "are no mean and covariance"),
        ("mu", (1 << 40,), "are no mean and covariance"),
        ("sigma", (2048, 2048), "cannot be read"),
        ("sigma", (), "are no mean and covariance"),
    ],
)
def test_npz_files_that_claim_more_than_they_hold_are_refused_before_anything_is_read(
    tmp_path: Path, name, shape, message
) -> None:
    header_only(tmp_path / "bomb.npz", **{name: shape})
    with pytest.raises(PiflowError, match=message):
        npz_statistics(tmp_path / "bomb.npz")


def test_npz_files_of_other_features_or_too_many(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is of 10 features, and Inception has 2,048"):
        npz_statistics(adm_file(tmp_path / "small.npz", 10))
    side = MOST_FEATURES + 1
    header_only(tmp_path / "large.npz", mu=(side,), sigma=(side, side))
    with pytest.raises(UsageError, match="is of 16,385 features; between 1 and 16,384 can be compared"):
        npz_statistics(tmp_path / "large.npz")


def test_npz_files_whose_covariance_is_none(tmp_path: Path) -> None:
    askew, negative = np.eye(2048), np.eye(2048)
    askew[0, 1], negative[3, 3] = 0.5, -0.01
    for sigma, message in (
        (askew, "is not symmetric"),
        (negative, "has the eigenvalue -0.01"),
        (np.full((2048, 2048), np.nan), "not finite"),
    ):
        with pytest.raises(RunError, match=message):
            npz_statistics(adm_file(tmp_path / "none.npz", sigma=sigma))


def test_a_damaged_download_of_clean_fid_s_is_fetched_again(tmp_path: Path, monkeypatch) -> None:
    kept = tmp_path / "own" / "statistics" / "cifar10_clean_train_32.npz"
    kept.parent.mkdir(parents=True)
    whole = adm_file(tmp_path / "whole.npz", sigma=np.eye(2048, dtype=np.float32)).read_bytes()
    kept.write_bytes(whole[:-1000])
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda url, path, progress: Path(path).write_bytes(whole))
    found = clean_fid_statistics("clean-fid:cifar10/32/train", Console(quiet=True), tmp_path / "own")
    assert found.moments.mean[7] == 7 and kept.read_bytes() == whole
