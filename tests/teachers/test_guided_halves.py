"""The other half of classifier-free guidance, asked for where it acts, against both halves everywhere."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_students import tiny_dit
from torch import Tensor, nn
from zoo import ZOO, conditioning, states

from piflow_cli.core.guidance import Guidance
from piflow_cli.sampling.denoise import sample_teacher
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import Conditioning, GuidedRows, TeacherFamily, repeat, teacher_velocity

LOW, HIGH = 0.2, 0.6
BATCH = 2
# Both ends of the interval, what float64 has next to them, and all between.
SIGMAS = st.one_of(
    st.sampled_from([LOW, HIGH, LOW - 1e-12, LOW + 1e-12, HIGH - 1e-12, HIGH + 1e-12, 1.0]), st.floats(0.01, 1.0)
)


@cache
def teacher_of(name: str) -> tuple[TeacherFamily, nn.Module, Tensor, Conditioning]:
    """A tiny teacher, states (2, C, *S) and what they are told: a class, or texts of lengths 7 and 4 padded to one."""
    if name == "dit":
        model, family = tiny_dit(in_channels=2).eval(), family_of("dit")
        x = torch.randn(BATCH, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        return family, model, x, {"class_labels": torch.tensor([2, 0])}
    return family_of(name), ZOO[name].build(), states(ZOO[name]), conditioning(ZOO[name], (7, 4))


class Counted:
    """A family that notes the number of rows of each call of its network."""

    def __init__(self, family: TeacherFamily) -> None:
        self.family = family
        self.parameterisation = family.parameterisation
        self.rows: list[int] = []

    def call(self, model: nn.Module, x: Tensor, sigma: Tensor, told: Conditioning) -> Tensor:
        assert len(x) == len(sigma) == len(told[next(iter(told))])
        self.rows.append(len(x))
        return self.family.call(model, x, sigma, told)

    velocity = call  # theirs are flow models

    def unconditional(self, model: nn.Module, told: Conditioning) -> Conditioning:
        return self.family.unconditional(model, told)


@torch.no_grad()
def everywhere(name: str, guidance: Guidance, x: Tensor, sigma: Tensor) -> Tensor:
    """Both halves for every state, and guidance where sigma is inside of the closed interval."""
    family, model, _, told = teacher_of(name)
    told = repeat(told, len(x) // BATCH)
    one, other = (family.call(model, x, sigma, part) for part in (told, family.unconditional(model, told)))
    bias = (guidance.scale - 1) * (one - other)
    spread = sigma.reshape(-1, 1, 1, 1).to(x)
    if guidance.orthogonal:
        x_0 = (x - spread * one).flatten(1)
        bias -= ((bias.flatten(1) * x_0).sum(1) / x_0.square().sum(1)).reshape(-1, 1, 1, 1) * x_0.reshape(x.shape)
    low, high = guidance.interval
    acts = torch.tensor([low <= level <= high for level in sigma.tolist()]).reshape(-1, 1, 1, 1)
    return torch.where(acts, one + bias, one)


@pytest.mark.parametrize("name", ["dit", "qwen-image", "z-image", "flux-cfg"])
@settings(max_examples=12)
@given(st.data())
def test_velocities_are_those_of_both_halves_everywhere(name: str, data: st.DataObject) -> None:
    family, model, x, told = teacher_of(name)
    count = data.draw(st.integers(1, 3), "states of each sample")
    levels = data.draw(st.lists(SIGMAS, min_size=BATCH * count, max_size=BATCH * count), "sigma")
    guidance = Guidance(3.0, (LOW, HIGH), data.draw(st.booleans(), "orthogonal"))
    most = data.draw(st.sampled_from([0, 2 * BATCH * count]), "rows")
    noise = torch.randn(len(levels), *x.shape[1:], generator=torch.Generator().manual_seed(len(levels)))
    sigma, counted = torch.tensor(levels, dtype=torch.float64), Counted(family)
    found = teacher_velocity(counted, model, guidance, noise, sigma, told, most=most)
    torch.testing.assert_close(found, everywhere(name, guidance, noise, sigma), rtol=1e-4, atol=1e-4)
    assert sum(counted.rows) == len(levels) + sum(LOW <= level <= HIGH for level in levels)


@pytest.mark.parametrize(("inside", "most", "asked"), [
    ((), 8, [4]), ((), 0, [4]),
    ((1, 2), 0, [4, 2]), ((1, 2), 5, [4, 2]), ((1, 2), 6, [6]),
    ((0, 1, 2, 3), 7, [4, 4]), ((0, 1, 2, 3), 8, [8]),
])  # fmt: skip
def test_both_halves_are_one_batch_where_it_may_be_as_large(inside: tuple, most: int, asked: list[int]) -> None:
    family, model, x, told = teacher_of("dit")
    counted, sigma = Counted(family), torch.ones(4, dtype=torch.float64)
    sigma[list(inside)] = 0.4
    teacher_velocity(counted, model, Guidance(2.0, (LOW, HIGH)), x.repeat(2, 1, 1, 1), sigma, told, most=most)
    assert counted.rows == asked


def test_texts_of_other_lengths_than_the_empty_one_are_asked_about_apart() -> None:
    family, model, x, told = teacher_of("qwen-image")
    assert told["prompt_embeds"].shape[1] != told["negative_prompt_embeds"].shape[1]
    counted = Counted(family)
    teacher_velocity(counted, model, Guidance(2.0), x, torch.full((2,), 0.4), told, most=8)
    assert counted.rows == [2, 2]


def test_a_teacher_without_guidance_is_asked_once() -> None:
    family, model, x, told = teacher_of("dit")
    counted = Counted(family)
    found = teacher_velocity(counted, model, Guidance(), x, torch.full((2,), 0.4), told)
    assert counted.rows == [2] and torch.equal(found, family.call(model, x, torch.full((2,), 0.4), told))


def test_samples_of_a_teacher_ask_for_the_other_half_inside_of_the_interval_alone() -> None:
    """Ten steps without a shift are at sigma 1, 0.9, ..., 0.1: those from 0.6 to 0.2 are guided."""
    family, model, x, told = teacher_of("dit")
    guidance, counted, here = Guidance(3.0, (LOW, HIGH)), Counted(family), x
    found = sample_teacher(counted, model, x, told, 10, 1.0, guidance)
    assert counted.rows == [2, 2, 2, 2] + [2, 2] * 5 + [2]
    for step in range(10, 0, -1):
        here = here - 0.1 * everywhere("dit", guidance, here, torch.full((2,), step / 10, dtype=torch.float64))
    torch.testing.assert_close(found, here, rtol=1e-4, atol=1e-4)


def test_rows_that_are_asked_for_in_vain_change_nothing() -> None:
    """Processes that share the weights out ask for one row at least."""
    family, model, x, told = teacher_of("dit")
    counted, first = Counted(family), torch.zeros(1, dtype=torch.int64)
    found = teacher_velocity(
        counted, model, Guidance(2.0, (LOW, HIGH)), x, torch.ones(2), told, GuidedRows(first, first)
    )
    assert counted.rows == [2, 1]
    torch.testing.assert_close(found, family.call(model, x, torch.ones(2), told), rtol=0, atol=0)
