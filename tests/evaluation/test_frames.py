"""Extractors and distances of pictures on videos: identities and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import seeded
from torch import Tensor

from piflow_cli.errors import UsageError
from piflow_cli.evaluation.extractors.moments import MomentAccumulator
from piflow_cli.evaluation.extractors.pixels import Pixels
from piflow_cli.evaluation.frames import OverFrames, as_pictures, by_frame, over_time
from piflow_cli.evaluation.metrics.alignment import alignment
from piflow_cli.evaluation.metrics.frechet import frechet_distance

EXTRACTOR = OverFrames(Pixels())
SHAPE = (4, 3, 6, 2, 2)


def moments(videos: Tensor):
    accumulator = MomentAccumulator()
    accumulator.add(EXTRACTOR.features(videos))
    return accumulator.moments()


def test_frames_come_video_by_video() -> None:
    videos = torch.rand(SHAPE, generator=seeded())
    pictures = as_pictures(videos)
    assert pictures.shape == (24, 3, 2, 2) and pictures[6 + 2].equal(videos[1, :, 2])
    assert as_pictures(pictures) is pictures


def test_a_still_has_the_features_of_its_picture_and_no_change() -> None:
    picture = torch.rand(4, 3, 1, 2, 2, generator=seeded())
    features = EXTRACTOR.features(picture.expand(SHAPE))
    torch.testing.assert_close(features[:, :12], picture.flatten(1))
    assert features.shape == (4, 24) and not features[:, 12:].any()
    # A video of one frame changes as little.
    torch.testing.assert_close(EXTRACTOR.features(picture), features)


def test_the_order_of_frames_is_seen_in_their_change_alone() -> None:
    """Features 0, 1, 2, 3 of one number: in order they change by 1; as 0, 3, 1, 2 by 3, 2 and 1."""
    ordered, mixed = (torch.tensor(values).view(1, 4, 1) for values in ([0.0, 1, 2, 3], [0.0, 3, 1, 2]))
    torch.testing.assert_close(over_time(ordered), torch.tensor([[1.5, 1.0]]))
    torch.testing.assert_close(over_time(mixed), torch.tensor([[1.5, math.sqrt(14 / 3)]]))


def test_a_set_has_no_distance_to_itself_and_a_brighter_one_its_offset() -> None:
    videos = torch.rand((30, *SHAPE[1:]), generator=seeded())
    assert frechet_distance(moments(videos), moments(videos)) == pytest.approx(0, abs=1e-6)
    # An offset of all frames is seen by the mean of 12 pixels, and does not change their change.
    assert frechet_distance(moments(videos), moments(videos + 0.5)) == pytest.approx(12 * 0.25, rel=1e-4)


def test_videos_of_too_many_pixels_are_refused_with_what_resizes() -> None:
    with pytest.raises(UsageError, match="videos of 64 x 64 have 24,576 features") as refused:
        EXTRACTOR.features(torch.zeros(1, 3, 2, 64, 64))
    assert refused.value.hint is not None and "--extractor inception" in refused.value.hint
    assert EXTRACTOR.logits(torch.zeros(1, 24)) is None and EXTRACTOR.name == "pixels over frames"


def test_distances_of_pictures_are_means_over_frames_of_videos() -> None:
    """PSNR of one frame that is off by 0.2 and one by 0.02 is the mean of 20 and 40 dB, not that of the mean square."""
    fine = torch.zeros(1, 3, 2, 4, 4)
    ours = fine + torch.tensor([0.2, 0.02]).view(1, 1, 2, 1, 1)
    assert alignment([(ours, fine)], lambda states: states).psnr == pytest.approx(30, rel=1e-5)
    brightness = by_frame(lambda shown: shown.flatten(1).mean(dim=1), ours)
    torch.testing.assert_close(brightness, torch.tensor([0.11]))
    assert by_frame(lambda shown: shown.flatten(1).mean(dim=1), ours[:, :, 0]).tolist() == [pytest.approx(0.2)]
