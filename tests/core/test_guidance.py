import math

import pytest
import torch
from helpers import golden, seeded
from torch.nn import functional as F

from piflow_cli.core.guidance import Guidance, Renormalisation
from piflow_cli.teachers.packing import pack


@pytest.mark.parametrize(("orthogonal", "name"), [(False, "plain"), (True, "orthogonal")])
def test_guided_velocities_equal_the_published_ones(orthogonal: bool, name: str) -> None:
    numbers = golden("policies.safetensors")
    inputs = [numbers[f"cfg.{key}"] for key in ("cond", "uncond", "x", "t")]
    guided = Guidance(2.7, orthogonal=orthogonal)(*inputs)
    torch.testing.assert_close(guided, numbers[f"cfg.{name}_2.7"], rtol=1e-5, atol=1e-5)


def test_guidance_acts_inside_its_interval_only() -> None:
    conditional, unconditional, x = torch.randn(3, 4, 2, 3, generator=seeded()).unbind()
    sigma = torch.tensor([0.1, 0.2, 0.6, 0.7])
    guided = Guidance(3.0, (0.2, 0.6))(conditional, unconditional, x, sigma)
    torch.testing.assert_close(guided[[0, 3]], conditional[[0, 3]], rtol=0, atol=0)
    torch.testing.assert_close(guided[1:3], (3 * conditional - 2 * unconditional)[1:3])


def test_orthogonal_guidance_moves_across_the_expected_data() -> None:
    conditional, unconditional, x = torch.randn(3, 4, 2, 3, generator=seeded(), dtype=torch.float64).unbind()
    sigma = torch.full((4,), 0.4, dtype=torch.float64)
    change = Guidance(3.0, orthogonal=True)(conditional, unconditional, x, sigma) - conditional
    x_0 = x - 0.4 * conditional
    torch.testing.assert_close((change * x_0).sum((1, 2)), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("most", [math.inf, 1.0])
def test_renormalised_tokens_have_the_length_of_the_conditional_ones(most: float) -> None:
    conditional, unconditional, x = torch.randn(3, 2, 3, 4, 6, generator=seeded(), dtype=torch.float64).unbind()
    sigma = torch.full((2,), 0.4, dtype=torch.float64)
    plain = Guidance(3.0)(conditional, unconditional, x, sigma)
    found = Guidance(3.0, renormalised=Renormalisation(2, most))(conditional, unconditional, x, sigma)
    tokens, of_plain, wanted = (pack(velocity) for velocity in (found, plain, conditional))
    torch.testing.assert_close(F.normalize(tokens, dim=-1), F.normalize(of_plain, dim=-1))
    expected = wanted.norm(dim=-1) if most == math.inf else torch.minimum(wanted.norm(dim=-1), of_plain.norm(dim=-1))
    torch.testing.assert_close(tokens.norm(dim=-1), expected)
