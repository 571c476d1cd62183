"""What the variants put in place of pieces of piflow: families, heads, substeps, groups of parameters, averages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from policy_cases import gm_policy
from torch import Tensor, nn
from variants import families, heads, pieces, substeps, training

from piflow_cli.core.ema import karras_decay
from piflow_cli.core.heads import HeadSite, HeadSizes, PolicyHead
from piflow_cli.core.policies.gmflow import GMFlowPolicy, GMHead
from piflow_cli.core.rollout import rollout
from piflow_cli.core.tensors import per_sample
from piflow_cli.training import loop, optimizer

SHAPE = (3, 2, 2, 2)
SITE = HeadSite("proj_out_2", patch=4, channel_major=False, tap="emb", tap_at="output")
RAW = torch.full((3,), 0.3, dtype=torch.float64)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # What a test has patched comes back after what its variant has.
    del monkeypatch
    yield
    pieces.undo()


def elsewhere() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def fields_of(policy: GMFlowPolicy) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    return policy.means, policy.logweights, policy.logstds, policy.x_src, policy.raw_src, policy.shift


def test_equal_variances_are_a_mixture_and_so_are_means_that_stand_still() -> None:
    policy, x = gm_policy(SHAPE, 4), elsewhere()
    means, logweights, logstds, *source = fields_of(policy)
    alike = families.VariancesPolicy(means, logweights, per_sample(logstds, logweights).expand_as(logweights), *source)
    torch.testing.assert_close(alike.velocity(x, RAW), policy.velocity(x, RAW))
    still = families.DriftPolicy(*fields_of(policy), drifts=torch.zeros_like(means))
    torch.testing.assert_close(still.velocity(x, RAW), policy.velocity(x, RAW))
    assert rollout(alike, x, policy.raw_src, RAW).isfinite().all()


def test_variances_of_their_own_give_the_mean_of_the_integral() -> None:
    """One channel: the prior of two Gaussians at the source, times the ratio of the likelihoods, over all x_0."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    source, low, x_src, x = 0.9, 0.4, 0.3 * one, -0.2 * one
    means, logstds = torch.tensor([0.5, -1.0]).double(), torch.tensor([-0.5, -2.0]).double()
    logweights = torch.tensor([0.2, -0.3]).double()
    given = [value.reshape(1, 2, 1, 1) for value in (means, logweights, logstds)]
    policy = families.VariancesPolicy(*given, x_src, torch.full((1,), source).double(), 1.0)
    x_0 = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    centres, stds = 0.3 - source * means, logstds.exp() * source
    prior = (logweights.exp() / stds * (-0.5 * ((x_0[:, None] - centres) / stds) ** 2).exp()).sum(dim=1)
    ratio = 0.5 * (((0.3 - (1 - source) * x_0) / source) ** 2 - ((-0.2 - (1 - low) * x_0) / low) ** 2)
    weight = prior * ratio.exp()
    expected = (weight * x_0).sum() / weight.sum()
    found = policy.posterior_mean(x, torch.full((1,), low).double())
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_means_that_drift_are_where_their_drift_has_led_them() -> None:
    policy, x = gm_policy(SHAPE, 4, raw_src=0.8), elsewhere()
    means, *others = fields_of(policy)
    drifts = means.sin()
    moving = families.DriftPolicy(means, *others, drifts=drifts)
    there = GMFlowPolicy(means + 0.5 * drifts, *others)
    torch.testing.assert_close(moving.velocity(x, RAW), there.velocity(x, RAW))


def head_of(kind: type[PolicyHead], components: int = 5) -> PolicyHead:
    torch.manual_seed(0)
    head = kind.build(nn.Linear(6, 8), SITE, HeadSizes(components, 7, 16), generator=torch.Generator().manual_seed(0))
    head.embedding = torch.randn(3, 7)
    return head


@pytest.mark.parametrize("kind", [families.VariancesHead, families.DriftHead, families.LowRankHead, heads.SegmentHead])
def test_heads_give_as_many_channels_as_they_say(kind: type[PolicyHead]) -> None:
    head = head_of(kind)
    if isinstance(head, heads.SegmentHead):
        head.sigma = torch.ones(3)
    assert head(torch.randn(3, 9, 6)).shape == (3, 9, head.width)


def test_means_of_a_low_rank_have_that_rank() -> None:
    means = head_of(families.LowRankHead).means(torch.randn(3, 9, 6)).unflatten(-1, (4, 5, 2))
    assert torch.linalg.matrix_rank(means.movedim(-2, 0).flatten(1), rtol=1e-5) == families.LowRankHead.RANK


def test_the_noise_level_chooses_the_head() -> None:
    head, tokens = head_of(heads.SegmentHead), torch.randn(3, 9, 6)
    embedding, found = head.embedding, []
    for sigma in ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [1.0, 0.5, 1.0]):
        head.embedding, head.sigma = embedding, torch.tensor(sigma)
        found.append(head(tokens))
    first, later, mixed = found
    assert not torch.equal(first, later)
    torch.testing.assert_close(mixed, torch.stack([first[0], later[1], first[2]]))
    head.embedding = embedding
    torch.testing.assert_close(GMHead.forward(head, tokens), first)


@pytest.mark.parametrize(("part", "order"), [(0.0, 1), (0.5, 2)])
def test_substeps_have_the_order_of_their_rule(part: float, order: int) -> None:
    """Four times as many leave an error smaller by 4 to the order."""
    policy, x = gm_policy(SHAPE, 4, raw_src=0.9), elsewhere()
    substeps.reaching_ahead(0.5)
    fine = rollout(policy, x, policy.raw_src, RAW, substeps=2_000)
    pieces.undo()
    substeps.reaching_ahead(part)
    coarse, finer = (
        (rollout(policy, x, policy.raw_src, RAW, substeps=count) - fine).abs().max().item() for count in (100, 400)
    )
    assert coarse / finer == pytest.approx(4**order, rel=0.15)


def test_the_head_has_a_rate_of_its_own() -> None:
    names = ("proj_out_2.means.weight", "proj_out_1.weight")
    named = [(name, nn.Parameter(torch.zeros(1))) for name in names]
    training.head_rate(3.0)
    head, rest = optimizer._groups(named, (), 1.0)
    assert (head["share"], rest["share"]) == (3.0, 1.0)
    assert head["params"] == [named[0][1]] and rest["params"] == [named[1][1]]


def test_every_kept_average_is_that_of_its_gamma(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of weights that count iterations, the mean of the power-law is (it + 1) (gamma + 1) / (gamma + 2), about.

    The run is stopped at its half, and goes on in a process that has kept nothing.
    """
    found, saved, folder = {}, [], SimpleNamespace(path=tmp_path)
    monkeypatch.setattr(training, "distances", lambda session, kept: found.update(kept) or {2.0: 1.0, 15.0: 0.5})
    monkeypatch.setattr(training.run, "save", lambda session, folder: saved.append(session.average.model.weight.item()))
    monkeypatch.setattr(training.run, "begin", lambda session, folder: None)
    average, current = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    preset = SimpleNamespace(optimisation=SimpleNamespace(iterations=1000))
    session = SimpleNamespace(iteration=0, preset=preset, average=SimpleNamespace(model=average))
    for _ in range(2):
        training.chosen_average((2.0, 15.0))
        training.run.begin(session, folder)
        for iteration in range(session.iteration, session.iteration + 500):
            nn.init.constant_(current.weight, iteration)
            decay = karras_decay(iteration, training.OWN)
            loop.update_average(average.parameters(), current.parameters(), decay)
        session.iteration += 500
        training.run.save(session, folder)
        pieces.undo()
    for gamma, (value,) in found.items():
        assert value.item() == pytest.approx(1000 * (gamma + 1) / (gamma + 2), rel=0.01)
    assert saved[1] == found[15.0][0].item()
