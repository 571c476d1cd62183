"""A tiny FLUX-shaped teacher learns a small synthetic set; its student of adapters and a head learns the teacher."""

from dataclasses import replace
from pathlib import Path

import torch
from helpers import seeded
from torch import Tensor, nn
from zoo import ZOO, stack, zoo_preset

from piflow_cli.console import Console
from piflow_cli.core.guidance import Guidance
from piflow_cli.core.rollout import rollout
from piflow_cli.core.timegrid import to_sigma
from piflow_cli.presets.resolve import resolve
from piflow_cli.sampling.denoise import sample_teacher
from piflow_cli.students.student import Student
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import Conditioning, teacher_velocity
from piflow_cli.training.loop import Session, train_step
from piflow_cli.training.opening import open_session

ROW = ZOO["flux"]
ROW = replace(
    ROW, config=ROW.config | {"num_single_layers": 1, "attention_head_dim": 32, "axes_dims_rope": (8, 12, 12)}
)
PROMPTS = ("a", "bb")
COLOURS = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]]).reshape(2, 1, 4, 1, 1)
SHAPE, SHIFT, TEACHER_ITERATIONS, ITERATIONS = (4, 4, 4), 3.2, 300, 150


def prompts(which: Tensor) -> Conditioning:
    return stack([ROW.encode(len(PROMPTS[index]) + 1) for index in which.tolist()])


def pictures(which: Tensor, generator: torch.Generator) -> Tensor:
    """Every position has the colour of the prompt or its opposite, and none knows of the others."""
    return COLOURS[which, 0] * torch.randint(2, (len(which), 1, *SHAPE[1:]), generator=generator).mul(2).sub(1)


def trained_teacher() -> nn.Module:
    """Flow matching (arXiv 2210.02747) at noise levels even in raw time."""
    model, family, generator = ROW.build(), family_of("flux", ROW.guidance), seeded()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for iteration in range(TEACHER_ITERATIONS):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (iteration + 1) / 50) * (1 - iteration / TEACHER_ITERATIONS)
        which = torch.randint(2, (32,), generator=generator)
        x_0, noise = pictures(which, generator), torch.randn(32, *SHAPE, generator=generator)
        sigma = to_sigma(0.02 + 0.98 * torch.rand(32, generator=generator), SHIFT)
        level = sigma.reshape(-1, 1, 1, 1)
        error = family.call(model, (1 - level) * x_0 + level * noise, sigma, prompts(which)) - (noise - x_0)
        error.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def open_learning(folder: Path) -> Session:
    path, _ = zoo_preset(ROW, folder)
    trained_teacher().save_pretrained(folder / "base" / "transformer")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    changes = {
        "data.prompts": str(folder / "prompts.txt"),
        "data.sizes": [[32, 32]],
        "data.cache": str(folder / "cache"),
        "adapter.rank": 16,
        "adapter.alpha": 16.0,
        "policy.components": 4,
        "policy.nfe": 1,
        "policy.substeps": 32,
        "imitation.loss_scale": 30.0,
        "optimisation.batch_size": 16,
        "optimisation.learning_rate": 3e-3,
        "optimisation.warmup": 20,
    }
    return open_session(resolve(path, None, [], changes), folder / "out", "cpu", Console(quiet=True))


@torch.no_grad()
def velocity_error(student: Student, session: Session) -> float:
    """Mean square of policy minus teacher along the student's own trajectory from noise."""
    which = torch.arange(64) % 2
    x, start, given = torch.randn(64, *SHAPE, generator=seeded(9)), torch.ones(64, dtype=torch.float64), prompts(which)
    policy = student.policy(student.model, x, start, given)
    errors = []
    for raw in (1.0, 0.75, 0.5, 0.25):
        now = torch.full_like(start, raw)
        state = rollout(policy, x, start, now, substeps=32)
        answer = teacher_velocity(student.family, session.teacher, Guidance(), state, to_sigma(now, SHIFT), given)
        errors.append((policy.velocity(state, now) - answer).square().mean().item())
    return sum(errors) / len(errors)


@torch.no_grad()
def distance_to_the_set(session: Session) -> float:
    """Mean square of the teacher's samples minus the nearest colour that their prompt allows, by position."""
    which, noise = torch.arange(64) % 2, torch.randn(64, *SHAPE, generator=seeded(9))
    samples = sample_teacher(session.student.family, session.teacher, noise, prompts(which), 32, SHIFT, Guidance())
    sides = (samples * COLOURS[which, 0]).mean(dim=1, keepdim=True).sign()
    return (samples - sides * COLOURS[which, 0]).square().mean().item()


def test_a_student_of_adapters_and_a_head_learns_its_teacher(text_encoders, tmp_path) -> None:
    session = open_learning(tmp_path)
    # Of the untrained network it is 1.4, of the other prompt's colours 1.9; 0.07 when this was written.
    assert distance_to_the_set(session) < 0.2
    before = velocity_error(session.average, session)
    for _ in range(ITERATIONS):
        train_step(session)
    # Fourteen times below it when this was written.
    assert velocity_error(session.average, session) < before / 5
