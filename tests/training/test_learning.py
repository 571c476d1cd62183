"""What a few steps of training do: every weight of the student moves, none
of the teacher's, and samples come closer."""

import pytest
import torch

from piflow_cli.console import Console
from piflow_cli.core.guidance import Guidance
from piflow_cli.presets.resolve import resolve
from piflow_cli.sampling.denoise import sample_student, sample_teacher, seeded_generators, seeded_noise
from piflow_cli.training.loop import Session, train_step
from piflow_cli.training.opening import open_session


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def session_of(teacher, tmp_path, policy: str = "gm", **optimisation) -> Session:
    preset = resolve(
        teacher,
        None,
        [],
        {"policy.kind": policy, **{f"optimisation.{name}": value for name, value in optimisation.items()}},
    )
    return open_session(preset, tmp_path, "cpu", Console(quiet=True))


@pytest.mark.parametrize("policy", ["gm", "momentum"])
def test_all_of_the_student_learns_and_nothing_of_the_teacher(tiny_teacher, tmp_path, policy: str) -> None:
    session = session_of(tiny_teacher, tmp_path, policy)
    student, teacher = weights(session.student.model), weights(session.teacher)
    # The last layer of the log-std starts at zero and hides the layers before it for one step.
    for _ in range(3):
        train_step(session)
    assert not [name for name, value in weights(session.student.model).items() if torch.equal(value, student[name])]
    assert all(torch.equal(value, teacher[name]) for name, value in weights(session.teacher).items())


def test_the_average_counts_from_the_end_of_the_warm_up(tiny_teacher, tmp_path) -> None:
    """Up to the warm-up's end it is the student; n steps on, the i-th of them weighs (i/n)^8
    - ((i-1)/n)^8 (arXiv 2312.02696, eq. 1)."""
    session = session_of(tiny_teacher, tmp_path, warmup=3, iterations=8, ema_gamma=7.0)
    seen = []
    for iteration in range(8):
        train_step(session)
        seen.append(weights(session.student.model))
        if iteration <= 3:
            assert all(torch.equal(value, seen[-1][name]) for name, value in weights(session.average.model).items())
    shares = (torch.arange(6) / 5).pow(8).diff()
    for name, value in weights(session.average.model).items():
        expected = sum(share * one[name] for share, one in zip(shares, seen[3:], strict=True))
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["gm", "momentum"])
def test_a_minute_of_digits_in_small_brings_the_samples_nearer_to_the_teacher(tmp_path, policy: str) -> None:
    session = session_of("digits", tmp_path, policy, batch_size=32, iterations=60, warmup=10)
    family, labels = session.student.family, [seed % 10 for seed in range(64)]
    conditioning = family.condition(session.teacher, labels)
    noise = seeded_noise(seeded_generators(range(64)), family.sample_shape(session.teacher))
    fine = sample_teacher(family, session.teacher, noise, conditioning, 32, 1.0, Guidance())

    def distance() -> float:
        return (sample_student(session.average, noise, conditioning) - fine).square().mean().item()

    before = distance()
    for _ in range(60):
        train_step(session)
    assert distance() < before / 2
