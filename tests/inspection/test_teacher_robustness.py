"""A teacher's answers off its own path, against closed forms."""

import json

import pytest
import torch
from helpers import MixtureFlow, seeded
from paths import path_of

from piflow_cli.inspection.against_teacher import compare
from piflow_cli.inspection.robustness import SIZES
from piflow_cli.inspection.teacher_robustness import ASKED, gains, push, pushed_states, velocity_errors
from piflow_cli.sampling.teacher import OwnTeacher
from piflow_cli.sampling.trajectory import times

SPREAD = 0.6
GAUSSIAN = MixtureFlow(torch.zeros(1, 2), torch.ones(1), SPREAD)
X = torch.randn(3, 2, 4, 3, generator=seeded(), dtype=torch.float64)
NOISE = torch.randn(3, 2, 4, 3, generator=seeded(1), dtype=torch.float64)


@pytest.mark.parametrize("shift", [1.0, 3.2])
def test_the_gain_on_a_gaussian_is_its_closed_form(shift: float) -> None:
    path = path_of(GAUSSIAN.policy(X, times(1.0, X), shift))
    against = compare(path, GAUSSIAN.velocity, X, shift, 64)
    asked = pushed_states(0, len(path.raws), 1)
    found = push(against, asked, path.raws, GAUSSIAN.velocity, NOISE, shift)
    sigma = torch.tensor([path.policy.sigma(times(path.raws[place], X))[0].item() for place in asked])
    exact = (1 - sigma) * SPREAD**2 / ((1 - sigma) ** 2 * SPREAD**2 + sigma**2)
    wanted = exact.unsqueeze(1).expand(-1, len(SIZES)).double()
    torch.testing.assert_close(gains(found), wanted, rtol=1e-5, atol=1e-6)
    # The velocity that is expected leads from x + delta to x_0 = gain x.
    for place, row in zip(asked, zip(sigma, exact, velocity_errors(found), strict=True), strict=True):
        level, gain, errors = row
        for size, error in zip(SIZES, errors, strict=True):
            delta = size * level * NOISE
            x = against.own[place][0]
            expected = gain * delta.square().mean().sqrt() / (x + delta - gain * x).square().mean().sqrt()
            assert error.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("segments", range(1, 17))
def test_as_many_states_of_a_path_are_pushed_whatever_its_segments_are(segments: int) -> None:
    places = [(index, place) for index in range(segments) for place in pushed_states(index, 8, segments)]
    assert len(places) == ASKED and (0, 0) not in places


@pytest.mark.parametrize("share", [0.0, 0.25, 2.0])
def test_a_report_tells_the_gain_of_its_teacher(
    cli, unrendered, tiny_teacher, tmp_path, monkeypatch, share: float
) -> None:
    """x_0 = share * x moves by that share of any push."""
    run, out = tmp_path / "run", tmp_path / "out"
    assert (
        cli("distill", "--teacher", str(tiny_teacher), "--nfe", "2", "--iterations", "1", "--output", str(run)).code
        == 0
    )
    monkeypatch.setattr(
        OwnTeacher, "velocity", lambda self, x, sigma, told: (1 - share) * x / sigma.reshape(-1, 1, 1, 1)
    )
    outcome = cli("inspect-policy", str(run), "--seeds", "0-2", "--output", str(out))
    assert outcome.code == 0, outcome.err
    (student,) = json.loads((out / "policy.json").read_text())["students"]
    found = student["teacher_robustness"]
    assert len(found["raws"]) == len(found["sigmas"]) == ASKED and 0 < min(found["raws"]) < max(found["raws"]) < 1
    assert [one["size"] for one in found["pushed"]] == [f"{size:g} sigma" for size in SIZES]
    for one in found["pushed"]:
        assert one["gain"] == pytest.approx([share] * ASKED, rel=1e-4, abs=1e-5)
        assert len(one["velocity_error"]) == ASKED
    assert found["gain"] == pytest.approx(share, rel=1e-4, abs=1e-5)
    assert f"x_0 moves by {share:.2f} of it" in outcome.out
    assert (out / "teacher-robustness.png").is_file() and "The teacher alone" in (out / "policy.html").read_text()
