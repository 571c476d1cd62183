"""The change of videos from frame to frame against the teacher's: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import seeded

from piflow_cli.evaluation.metrics.temporal import temporal

SHAPE = (2, 3, 5, 4, 4)


def same(states):
    return states


def test_a_teacher_against_itself_has_no_error() -> None:
    video = torch.rand(SHAPE, generator=seeded()) - 0.5
    found = temporal([(video, video)], same)
    assert (found.count, found.change, found.frame) == (2, 0.0, 0.0)


def test_what_is_wrong_in_all_frames_alike_is_no_error_of_change() -> None:
    """Frames of the teacher have levels ±0.5 that swap from one to the next: their change is 1 everywhere."""
    levels = torch.tensor([-0.5, 0.5] * 3)[:5].view(1, 1, 5, 1, 1).expand(SHAPE)
    offset = 0.1 * torch.randn(2, 3, 1, 4, 4, generator=seeded()).sign()
    found = temporal([(levels + offset, levels)], same)
    assert found.change == pytest.approx(0, abs=1e-6) and found.frame == pytest.approx(0.1 / 0.5)


def test_a_still_has_lost_all_of_the_change() -> None:
    video = torch.rand(SHAPE, generator=seeded()) - 0.5
    still = video.mean(dim=2, keepdim=True).expand(SHAPE)
    assert temporal([(still, video)], same).change == pytest.approx(1)


def test_flicker_of_alternating_sign_counts_twice() -> None:
    """x = y + a (-1)^t: frames are wrong by a, and changes by 2 a. The teacher's frames are 0.1 t - 0.2."""
    ramp = (0.1 * torch.arange(5.0) - 0.2).view(1, 1, 5, 1, 1).expand(SHAPE)
    sign = torch.tensor([1.0, -1, 1, -1, 1]).view(1, 1, 5, 1, 1)
    found = temporal([(ramp + 0.03 * sign, ramp)], same)
    assert found.change == pytest.approx(0.06 / 0.1, rel=1e-5)
    assert found.frame == pytest.approx(0.03 / math.sqrt((0.04 + 0.01) * 2 / 5), rel=1e-5)


def test_batches_make_no_difference_and_frames_are_decoded_and_clipped() -> None:
    ours, fine = (torch.randn(6, *SHAPE[1:], generator=seeded(seed)) for seed in (0, 1))
    whole = temporal([((2 * ours).clamp(-1, 1), (2 * fine).clamp(-1, 1))], same)
    parts = temporal(zip(ours.split([1, 3, 2]), fine.split([1, 3, 2])), lambda states: 2 * states)
    assert parts.count == 6
    assert (parts.change, parts.frame) == (pytest.approx(whole.change), pytest.approx(whole.frame))


def test_a_teacher_that_stands_still_has_no_change_to_compare_with() -> None:
    still = torch.full(SHAPE, 0.5)
    found = temporal([(still + 0.1, still)], same)
    assert found.change is None and found.frame == pytest.approx(0.2)
