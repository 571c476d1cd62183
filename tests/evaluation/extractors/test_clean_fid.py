"""Against clean-fid called directly: the same folders, the same network, the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import seeded
from inception import save_random_inception
from PIL import Image

from piflow_cli.console import Console
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.extractors.clean_fid import clean_fid_module
from piflow_cli.evaluation.folder_run import FolderRequest, evaluate_folder
from piflow_cli.evaluation.folders import open_folder
from piflow_cli.evaluation.metrics.kid import kernel_distance
from piflow_cli.evaluation.references import folder_features

CPU = torch.device("cpu")
# torch calls TorchScript deprecated; Inception's weights exist in no other form.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:FutureWarning")
# Too few for an error bar, which would take a decomposition of 2,048 x 2,048 for each of its groups.
PICTURES = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Pictures of several sizes, modes and formats, in sub-folders too; the second folder's are darker."""
    root = tmp_path_factory.mktemp("pictures")
    for name, scale in (("ours", 256), ("theirs", 150)):
        for index in range(PICTURES):
            generator = np.random.default_rng(100 * scale + index)
            width, height = [(32, 32), (40, 24), (350, 310)][index % 3]
            pixels = generator.integers(0, scale, (height, width, 3), dtype=np.uint8)
            path = (
                root
                / name
                / ("inner" if index % 5 == 0 else "")
                / f"{index:02}.{['png', 'jpg', 'png', 'webp'][index % 4]}"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).convert("RGB" if index % 4 else "L").save(path)
    return root / "ours", root / "theirs"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_random_inception(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def direct(folders, weights) -> list[np.ndarray]:
    """Features of both folders by clean-fid alone, its wrapper and its loader included."""
    network = clean_fid_module("inception_torchscript").InceptionV3W(str(weights.parent), download=False)
    options = {"num_workers": 0, "device": CPU, "mode": "clean", "verbose": False}
    return [clean_fid_module("fid").get_folder_features(str(folder), network, **options) for folder in folders]


def test_features_of_a_folder_are_clean_fid_s(folders, weights, direct) -> None:
    extractor = open_extractor("inception", CPU, weights, trust=True)
    for folder, expected in zip(folders, direct):
        found = folder_features(open_folder(folder), extractor, Console(quiet=True)).features
        # Ours come size by size, clean-fid's suffix by suffix.
        order, other = (np.lexsort(features.T[:3].round(3)) for features in (found.numpy(), expected))
        np.testing.assert_allclose(found.numpy()[order], expected[other], rtol=1e-4, atol=1e-4)


def test_features_of_the_network_that_resizes_by_itself_are_clean_fid_s(tmp_path: Path, weights) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (30, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    network = clean_fid_module("inception_torchscript").InceptionV3W(
        str(weights.parent), download=False, resize_inside=True
    )
    options = {"num_workers": 0, "device": CPU, "mode": "legacy_tensorflow", "verbose": False}
    expected = clean_fid_module("fid").get_folder_features(str(tmp_path), network, **options)
    found = folder_features(
        open_folder(tmp_path), open_extractor("inception-tf", CPU, weights, trust=True), Console(quiet=True)
    ).features
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_fid_and_kid_of_folders_are_clean_fid_s(folders, weights, direct, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    request = FolderRequest(
        folders[0], str(folders[1]), "inception", ("fid", "kid"), inception_weights=weights, trust_weights=True
    )
    found = {number.metric: number.value for number in evaluate_folder(request, CPU, Console(quiet=True))}
    assert found["fid"] == pytest.approx(frechet_by_singular_values(*direct), rel=1e-3)
    np.random.seed(5)
    assert found["kid"] == pytest.approx(clean_fid_module("fid").kernel_distance(direct[1], direct[0]), rel=1e-3)


def frechet_by_singular_values(one: np.ndarray, other: np.ndarray) -> float:
    """The distance of fewer pictures than features, without a root of a matrix.

    Of C = A'A the trace of the root of C_1 C_2 is the sum of the singular values of A_1 A_2'.
    """
    sides = [(side - side.mean(axis=0)) / np.sqrt(len(side) - 1) for side in (one.astype(float), other.astype(float))]
    offset = one.mean(axis=0) - other.mean(axis=0)
    traces = sum(np.square(side).sum() for side in sides)
    return float(offset @ offset + traces - 2 * np.linalg.svd(sides[0] @ sides[1].T, compute_uv=False).sum())


def test_kid_of_unequal_sides_is_clean_fid_s_under_the_same_seed() -> None:
    one, other = torch.randn(300, 16, generator=seeded()), torch.randn(1200, 16, generator=seeded(1)) + 0.3
    np.random.seed(7)
    expected = clean_fid_module("fid").kernel_distance(one.numpy(), other.numpy())
    assert kernel_distance(one, other, seed=7) == pytest.approx(expected, rel=1e-3)
