"""Which sizes there are, which one a picture gets, and what is left of the picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from piflow_cli.data.buckets import bucket_sizes, buckets_of, fit, nearest_bucket
from piflow_cli.errors import UsageError
from piflow_cli.presets.schema import DataSection

MULTIPLES = st.sampled_from([1, 8, 16, 32])
SIDES = st.integers(1, 5000)


@st.composite
def any_buckets(draw: st.DrawFn) -> tuple[int, float, int, list[tuple[int, int]]]:
    multiple, ratio = draw(MULTIPLES), draw(st.floats(1, 4))
    resolution = multiple * draw(st.integers(1, 80))
    return resolution, ratio, multiple, bucket_sizes(resolution, ratio, multiple)


@given(any_buckets())
def test_sizes_are_within_their_bounds(case):
    resolution, ratio, multiple, sizes = case
    assert (resolution, resolution) in sizes and len(set(sizes)) == len(sizes)
    for width, height in sizes:
        shorter, longer = sorted((width, height))
        assert width % multiple == height % multiple == 0 and (height, width) in sizes
        assert longer <= ratio * shorter
        # As many pixels as fit: one more row of patches would be too many.
        assert shorter * longer <= resolution**2 < shorter * (longer + multiple)


@given(any_buckets(), SIDES, SIDES)
def test_every_picture_gets_the_bucket_of_nearest_aspect_ratio(case, width, height):
    sizes = case[3]
    chosen = nearest_bucket((width, height), sizes)

    def distance(size):
        return abs(math.log(size[0] / size[1]) - math.log(width / height))

    assert chosen in sizes
    assert all(distance(chosen) <= distance(other) + 1e-9 for other in sizes)


@given(any_buckets())
def test_a_bucket_is_its_own_bucket(case):
    assert all(nearest_bucket(size, case[3]) == size for size in case[3])


def test_buckets_of_a_megapixel():
    tall = [(960, 1088), (896, 1168), (832, 1248), (768, 1360)]
    wide = [(height, width) for width, height in reversed(tall)]
    assert bucket_sizes(1024, 2.0, 16) == [*wide, (1024, 1024), *tall]
    assert bucket_sizes(1024, 1.0, 16) == [(1024, 1024)]


@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 3), st.integers(1, 3))
def test_fitting_keeps_the_scale_and_the_centre(width, height, across, down):
    # A picture that is its own gradient: after fitting, the middle is the middle's value and x grows evenly.
    ramp = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
    size = (8 * across, 8 * down)
    fitted = fit(Image.fromarray(ramp), size)
    assert fitted.shape == (3, size[1], size[0]) and fitted.dtype == torch.float32
    assert fitted.min() >= -1 and fitted.max() <= 1
    assert torch.equal(fitted[0], fitted[0][:1].expand(size[1], -1))
    row = fitted[0, 0]
    assert abs(row.mean()) < 0.05
    kept = min(1.0, size[0] / size[1] * height / width)
    assert row[-1] - row[0] == pytest.approx(2 * kept * (1 - 1 / size[0]), abs=0.25)


def test_a_picture_of_the_right_size_is_only_scaled():
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(fit(Image.fromarray(pixels), (8, 4)), expected)


def test_sizes_of_a_preset():
    assert buckets_of(DataSection(prompts="p", resolution=64), 16) == [(64, 64)]
    assert buckets_of(DataSection(prompts="p", resolution=64, aspect_ratio=2.0), 16) == bucket_sizes(64, 2.0, 16)
    assert buckets_of(DataSection(prompts="p", sizes=((64, 32), (32, 64), (64, 32))), 16) == [(64, 32), (32, 64)]


@pytest.mark.parametrize(
    ("section", "message", "hint"),
    [
        (
            DataSection(prompts="p", resolution=1000),
            "data.resolution 1000 is no multiple of 16 pixels",
            "--set data.resolution=992, or --set data.resolution=1008",
        ),
        (
            DataSection(prompts="p", resolution=5),
            "data.resolution 5 is no multiple of 16 pixels",
            "--set data.resolution=16",
        ),
        (
            DataSection(prompts="p", sizes=((32, 32), (64, 72))),
            "data.sizes holds 64x72, and its height",
            "[64,64]], or --set data.sizes=[[32,32],[64,80]]",
        ),
        (
            DataSection(prompts="p", sizes=((72, 64),)),
            "data.sizes holds 72x64, and its width",
            "--set data.sizes=[[64,64]], or --set data.sizes=[[80,64]]",
        ),
        (DataSection(prompts="p"), "no size is given", "data.resolution=1024"),
    ],
)
def test_a_size_that_the_teacher_cannot_take(section, message, hint):
    with pytest.raises(UsageError) as caught:
        buckets_of(section, 16)
    assert message in caught.value.message and hint in caught.value.hint
