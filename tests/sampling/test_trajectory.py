"""A student's own path: that of its sampler, and errors that vanish where policy and teacher agree."""

import pytest
import torch
from tiny_students import tiny_student

from piflow_cli.core.timegrid import to_sigma
from piflow_cli.errors import UsageError
from piflow_cli.sampling.denoise import sample_student, seeded_generators, seeded_noise
from piflow_cli.sampling.teacher import own_teacher
from piflow_cli.sampling.trajectory import VelocityError, pooled, velocity_errors, walk


@pytest.fixture(params=["gm", "dx", "momentum"])
def student(request):
    return tiny_student(request.param)


def setting(student):
    noise = seeded_noise(seeded_generators([0, 1]), (2, 4, 4))
    return noise, student.family.condition(student.model, [0, 2])


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("points", [1, 5])
def test_the_path_ends_where_the_sampler_does(student, steps: int, points: int) -> None:
    noise, conditioning = setting(student)
    *_, last = walk(student, noise, conditioning, steps=steps, points=points)
    torch.testing.assert_close(last.end, sample_student(student, noise, conditioning, steps=steps), rtol=0, atol=0)
    assert last.index == steps - 1 and last.raw_end == 0 and len(last.states) == points


def test_errors_are_those_against_a_known_field(student) -> None:
    noise, conditioning = setting(student)
    path = next(walk(student, noise, conditioning, points=3))

    def shifted(x, sigma):
        raw = {to_sigma(raw, 3.2): raw for raw in path.raws}
        at = min(raw, key=lambda value: abs(value - sigma[0].item()))
        return path.policy.velocity(x, torch.full((2,), raw[at], dtype=torch.float64)) + 0.5

    for error in velocity_errors(path, shifted, 3.2):
        assert error.squared == pytest.approx(0.25, rel=1e-5)
        assert error.relative == pytest.approx(0.25 / error.teacher, rel=1e-5)


def test_batches_pool_like_one() -> None:
    one, two = VelocityError(0, 0.5, 0.7, 1.0, 2.0), VelocityError(0, 0.5, 0.7, 4.0, 8.0)
    assert pooled([(1, [one]), (3, [two])]) == [VelocityError(0, 0.5, 0.7, 3.25, 6.5)]


def test_a_teacher_that_is_no_preset_is_said(student) -> None:
    with pytest.raises(UsageError, match="no shipped preset"):
        own_teacher(student)
