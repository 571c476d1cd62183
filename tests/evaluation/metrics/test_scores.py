from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.errors import RunError, UsageError, explain
from piflow_cli.evaluation.extractors import installed
from piflow_cli.evaluation.metrics.diversity import diversity
from piflow_cli.evaluation.metrics.inception_score import inception_score
from piflow_cli.evaluation.metrics.kid import kernel_distance
from piflow_cli.evaluation.metrics.precision_recall import precision_recall


def unbiased_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    """The definition: means over different pairs within, over all pairs across."""

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    within = [np.mean([kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]) for a in (x, y)]
    return float(sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def test_kernel_distance_of_a_handful_is_its_definition() -> None:
    x, y = (
        torch.randn(7, 3, generator=seeded(), dtype=torch.float64),
        torch.randn(7, 3, generator=seeded(1), dtype=torch.float64),
    )
    assert kernel_distance(x, y) == pytest.approx(unbiased_mmd(x, y), rel=1e-9)


def test_kernel_distance_is_unbiased_where_the_frechet_distance_is_not() -> None:
    """Of samples of one distribution it is zero on average, also from few of
    them; another distribution is told apart."""
    same = [kernel_distance(*torch.randn(2, 20, 4, generator=seeded(seed))) for seed in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / len(same) ** 0.5
    assert min(same) < 0
    x, y = torch.randn(2, 20, 4, generator=seeded())
    assert kernel_distance(x, y + 1) > max(same)


def test_kernel_distance_leaves_numpy_s_generator_alone() -> None:
    np.random.seed(3)
    expected = np.random.rand(4)
    np.random.seed(3)
    first = kernel_distance(torch.randn(30, 2, generator=seeded()), torch.randn(9, 2, generator=seeded(1)))
    assert (np.random.rand(4) == expected).all()
    assert kernel_distance(torch.randn(30, 2, generator=seeded()), torch.randn(9, 2, generator=seeded(1))) == first


def test_without_clean_fid_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(installed, "import_module", _missing)
    with pytest.raises(ModuleNotFoundError) as caught:
        kernel_distance(torch.zeros(3, 2), torch.zeros(3, 2))
    assert explain(caught.value).hint == 'pip install "piflow[eval]"'


def _missing(name: str):
    raise ModuleNotFoundError("No module named 'cleanfid'", name="cleanfid")


def test_a_torchvision_of_another_torch_is_named(monkeypatch) -> None:
    def mismatch(name: str):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(installed, "import_module", mismatch)
    with pytest.raises(RunError, match="torchvision::nms"):
        kernel_distance(torch.zeros(3, 2), torch.zeros(3, 2))


def test_inception_score_lies_between_one_and_the_number_of_classes() -> None:
    certain = 1e4 * torch.eye(10).repeat(10, 1)
    assert inception_score(certain) == pytest.approx(10)
    assert inception_score(torch.randn(1, 10, generator=seeded()).repeat(50, 1)) == pytest.approx(1)
    logits = torch.randn(60, 10, generator=seeded())
    assert 1 < inception_score(logits) < 10


def test_inception_score_of_two_pictures_has_a_closed_form() -> None:
    """p = (a, 1-a) and (1-a, a): log 2 less the entropy of a."""
    a = 0.8
    logits = torch.tensor([[a, 1 - a], [1 - a, a]]).log()
    expected = 2 * np.exp(a * np.log(a) + (1 - a) * np.log(1 - a))
    assert inception_score(logits, splits=1) == pytest.approx(expected, rel=1e-6)


def nearest(points: np.ndarray, others: np.ndarray, neighbours: int) -> float:
    """Precision by its definition, point by point."""
    found = 0
    for point in points:
        for other in others:
            radius = sorted(np.linalg.norm(others - other, axis=1))[neighbours]
            if np.linalg.norm(point - other) <= radius:
                found += 1
                break
    return found / len(points)


@given(st.integers(5, 20), st.integers(5, 20), st.integers(1, 4), st.integers(0, 99))
def test_precision_and_recall_are_their_definition_whatever_the_chunk(
    count: int, others: int, neighbours: int, seed: int
) -> None:
    features = torch.randn(count, 3, generator=seeded(seed), dtype=torch.float64)
    reference = torch.randn(others, 3, generator=seeded(seed + 1), dtype=torch.float64) + 0.5
    found = precision_recall(features, reference, neighbours=neighbours, chunk=3)
    assert found.precision == pytest.approx(nearest(features.numpy(), reference.numpy(), neighbours))
    assert found.recall == pytest.approx(nearest(reference.numpy(), features.numpy(), neighbours))


def test_precision_and_recall_of_extremes() -> None:
    points = torch.randn(30, 4, generator=seeded())
    assert precision_recall(points, points) == (1, 1)
    assert precision_recall(points, points + 100) == (0, 0)
    collapsed = points[:1] + 1e-3 * torch.randn(30, 4, generator=seeded(1))
    precision, recall = precision_recall(collapsed, points)
    assert precision == 1 and recall < 0.1


def test_diversity_is_the_mean_distance_within_a_prompt() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [50.0, 50.0]])
    groups = torch.tensor([7, 7, 2, 2, 2, 9])
    assert diversity(features, groups) == pytest.approx((5 + (1 + 1 + 2) / 3) / 2)
    assert diversity(features[:2].repeat(2, 1), torch.tensor([0, 1, 0, 1])) == 0


def test_too_few_pictures_are_refused() -> None:
    few = torch.zeros(3, 2)
    with pytest.raises(UsageError, match="KID: at least 2"):
        kernel_distance(few[:1], few)
    with pytest.raises(UsageError, match="precision and recall: at least 4"):
        precision_recall(few, few)
    with pytest.raises(UsageError, match="at least 10"):
        inception_score(few)
    with pytest.raises(UsageError, match="there is one of each"):
        diversity(few, torch.arange(3))
