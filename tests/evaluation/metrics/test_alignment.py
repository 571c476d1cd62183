"""Same-noise distances: closed forms, and no difference that batches make."""

import math

import pytest
import torch
from helpers import seeded

from piflow_cli.evaluation.metrics.alignment import alignment, psnr


def same(states):
    return states


def test_a_constant_offset_has_its_square_and_its_decibels() -> None:
    fine = torch.rand(5, 1, 4, 4, generator=seeded()) - 0.5
    found = alignment([(fine + 0.1, fine)], same)
    assert found.count == 5 and found.mse == pytest.approx(0.01, rel=1e-5)
    assert found.psnr == pytest.approx(20 * math.log10(2 / 0.1), rel=1e-5)


def test_batches_count_by_their_pictures() -> None:
    ours, fine = (torch.randn(7, 2, 3, 3, generator=seeded(seed)) for seed in (0, 1))
    whole = alignment([(ours, fine)], same)
    parts = alignment(zip(ours.split([1, 4, 2]), fine.split([1, 4, 2])), same)
    assert parts.count == 7 and parts.mse == pytest.approx(whole.mse) and parts.psnr == pytest.approx(whole.psnr)
    assert whole.mse == pytest.approx((ours - fine).square().mean().item())


def test_what_viewers_cannot_see_is_no_noise_to_psnr() -> None:
    fine = torch.full((1, 1, 2, 2), 1.5)
    found = alignment([(torch.full_like(fine, 3.0), fine)], same)
    assert found.mse == pytest.approx(2.25) and found.psnr == math.inf


def test_decoding_happens_before_psnr_and_after_mse() -> None:
    fine = torch.zeros(2, 1, 2, 2)
    found = alignment([(fine + 0.5, fine)], lambda states: states * 2)
    assert found.mse == pytest.approx(0.25) and found.psnr == pytest.approx(20 * math.log10(2 / 1))


def test_psnr_falls_six_decibels_when_the_error_doubles() -> None:
    fine = torch.zeros(1, 3, 4, 4)
    difference = psnr(fine + 0.2, fine) - psnr(fine + 0.4, fine)
    assert difference.item() == pytest.approx(20 * math.log10(2), rel=1e-6)
