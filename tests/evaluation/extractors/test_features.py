from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from piflow_cli.errors import PiflowError, RunError, UsageError
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.extractors.features import FeatureCollector, FeatureSet, load_features, refuse_mixing
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.metrics.frechet import frechet_distance

PIXELS = open_extractor("pixels", torch.device("cpu"))


def pictures(count: int, seed: int = 0, side: int = 3) -> torch.Tensor:
    return torch.randn(count, 1, side, side, generator=seeded(seed))


def collected(images: torch.Tensor, source: str = "here", keep: bool = True) -> FeatureSet:
    collector = FeatureCollector(PIXELS, source, keep)
    for part in images.split(4):
        collector.add(part)
    return collector.finish()


def test_what_is_collected_in_batches_is_in_order_and_has_its_moments() -> None:
    images = pictures(11)
    found = collected(images)
    assert torch.equal(found.features, images.flatten(1)) and found.count == 11 and found.dimension == 9
    torch.testing.assert_close(found.moments.covariance, moments(images.flatten(1)).covariance, rtol=1e-12, atol=1e-12)


def test_without_keeping_nothing_but_moments_is_held() -> None:
    found = collected(pictures(11), keep=False)
    assert found.features is None
    with pytest.raises(UsageError, match="KID compares pictures one by one, and here holds"):
        found.need_features("KID")


@given(st.integers(2, 20), st.booleans(), st.text(min_size=1, max_size=20))
def test_statistics_saved_and_reloaded_give_the_same_number_bit_for_bit(count: int, keep: bool, source: str) -> None:
    import tempfile

    ours, other = collected(pictures(count, seed=count), source, keep), collected(pictures(9, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        ours.save(Path(folder) / "statistics.safetensors")
        again = load_features(Path(folder) / "statistics.safetensors")
    assert frechet_distance(again.moments, other.moments) == frechet_distance(ours.moments, other.moments)
    assert (again.extractor, again.resize, again.source, again.count) == (ours.extractor, ours.resize, source, count)
    assert (again.features is None) == (not keep) and (not keep or torch.equal(again.features, ours.features))


def test_files_that_are_no_statistics(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UsageError, match="no statistics at"):
        load_features(path)
    save_file({"mean": torch.zeros(2)}, path)
    with pytest.raises(UsageError, match="holds no statistics"):
        load_features(path)
    found = collected(pictures(5))
    replace(found, moments=found.moments._replace(mean=torch.full((9,), torch.nan, dtype=torch.float64))).save(path)
    with pytest.raises(RunError, match="not finite"):
        load_features(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RunError, match="corrupt or cut short"):
        load_features(path)


@pytest.mark.parametrize("change", [{"extractor": "inception-2015-12-05"}, {"resize": "clean"}])
def test_another_extractor_or_resize_mode_is_refused_with_both_named(change: dict[str, str]) -> None:
    ours = collected(pictures(5), "ours")
    other = replace(collected(pictures(5), "theirs"), **change)
    for side in (ours, PIXELS):
        with pytest.raises(UsageError) as caught:
            refuse_mixing(side, other)
        for named in ("theirs", f"{other.extractor} (resize: {other.resize})", "pixels (resize: none)"):
            assert named in caught.value.message
    refuse_mixing(ours, collected(pictures(3)))


def test_pictures_of_other_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="ours has 9 features a picture by pixels, and theirs 16"):
        refuse_mixing(collected(pictures(5), "ours"), collected(pictures(5, side=4), "theirs"))
    collector = FeatureCollector(PIXELS, "here")
    collector.add(pictures(2))
    with pytest.raises(UsageError, match="several sizes give 9 and 16 features"):
        collector.add(pictures(2, side=4))


def test_every_flipped_bit_of_saved_statistics_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    collected(pictures(5), keep=False).save(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = load_features(path)
        except PiflowError:
            continue
        # A flip in the name of the digest leaves a file of piflow 0.1, of which the numbers are checked.
        assert b"sha256" in whole[place - 6 : place + 7] and found.count == 5


def test_statistics_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    path, found = tmp_path / "x.safetensors", collected(pictures(5))
    for change, message in (
        ({"count": 6}, "features .* are not 6 of"),
        ({"moments": found.moments._replace(mean=found.moments.mean[:-1])}, "are no mean and covariance"),
    ):
        replace(found, **change).save(path)
        with pytest.raises(UsageError, match=message):
            load_features(path)
    tensors = {"mean": torch.zeros(2), "covariance": -torch.eye(2)}
    facts = {"format": "piflow-statistics", "extractor": "pixels", "resize": "none", "source": "x"}
    save_file(tensors, path, {**facts, "count": "many"})
    with pytest.raises(UsageError, match="is missing or wrong"):
        load_features(path)
    save_file(tensors, path, {**facts, "count": "5"})
    with pytest.raises(RunError, match="has the eigenvalue -1"):
        load_features(path)
