"""The order of samples: it depends on the seed and the place alone, and treats all samples alike."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from piflow_cli.data.batches import LabelledImages, batch_indices, bucket_batch
from piflow_cli.data.labelled_images import load_images
from piflow_cli.errors import UsageError

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**63 - 1)


@given(st.integers(1, 20), SEEDS, st.integers(0, 50), st.integers(1, 30))
def test_every_pass_visits_every_sample_once(length, seed, start, count):
    whole = batch_indices(length, seed, 0, (start + count) // length * length + length)
    assert all(sorted(part.tolist()) == list(range(length)) for part in whole.split(length))
    assert torch.equal(batch_indices(length, seed, start, count), whole[start : start + count])


@given(LENGTHS, SEEDS, st.integers(1, 12))
def test_samples_of_all_buckets_come_equally_often(lengths, seed, size):
    # After `size` passes every bucket has given exactly its length in batches, whatever does not divide.
    seen = Counter()
    for place in range(sum(lengths)):
        bucket, chosen = bucket_batch(lengths, seed, place, size)
        assert chosen.shape == (size,) and chosen.min() >= 0 and chosen.max() < lengths[bucket]
        seen.update((bucket, index) for index in chosen.tolist())
    assert seen == {(bucket, index): size for bucket, length in enumerate(lengths) for index in range(length)}


@given(LENGTHS, SEEDS, st.integers(1, 12), st.integers(0, 200))
def test_a_place_has_the_same_batch_whenever_it_is_asked_for(lengths, seed, size, place):
    bucket, chosen = bucket_batch(lengths, seed, place, size)
    bucket_batch(lengths, seed + 1, 0, size)
    again, same = bucket_batch(lengths, seed, place, size)
    assert bucket == again and torch.equal(chosen, same)


def test_passes_and_seeds_differ_in_their_order():
    def order(seed, passes):
        places = range(60 * passes, 60 * (passes + 1))
        return [
            (bucket, *chosen.tolist())
            for bucket, chosen in (bucket_batch((40, 80), seed, place, 2) for place in places)
        ]

    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    # Buckets are mixed within a pass, not one after the other.
    buckets = [bucket for bucket, *_ in order(0, 0)]
    assert sum(one != other for one, other in pairwise(buckets)) > 10


def test_buckets_of_one_length_have_orders_of_their_own():
    orders: dict[int, list[int]] = {0: [], 1: []}
    for place in range(60):
        bucket, chosen = bucket_batch((30, 30), 0, place, 1)
        orders[bucket] += chosen.tolist()
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(30)) and orders[0] != orders[1]


def test_labelled_images_follow_the_shuffled_order(tmp_path):
    images = torch.arange(5 * 4, dtype=torch.uint8).reshape(5, 2, 2)
    save_file({"images": images, "labels": torch.arange(5)}, tmp_path / "i.safetensors", {"levels": "16"})
    pictures, labels = load_images(tmp_path / "i.safetensors")
    data = LabelledImages(pictures, labels, lambda labels: {"class_labels": torch.tensor(labels)})
    batch = data.batch(seed=3, place=2, size=4)
    chosen = batch_indices(5, 3, 8, 4)
    assert torch.equal(batch.conditioning["class_labels"], chosen) and batch.shape == (4, 1, 2, 2)
    assert torch.equal(batch.x_0, images[chosen].float()[:, None] / 8 - 1)


def test_a_file_that_holds_no_labelled_images(tmp_path):
    save_file({"images": torch.zeros(1)}, tmp_path / "i.safetensors")
    with pytest.raises(UsageError, match="lacks the tensors"):
        load_images(tmp_path / "i.safetensors")
    with pytest.raises(UsageError, match="there are no images at"):
        load_images(tmp_path)
