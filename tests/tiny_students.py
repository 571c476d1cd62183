"""A small student of a small random teacher, for tests of everything that handles students."""

from __future__ import annotations

import torch

from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.student import Student, student_of
from piflow_cli.teachers import family_of
from piflow_cli.teachers.dit_network import DiT


def facts(policy: str = "gm", components: int = 3) -> StudentFacts:
    return StudentFacts(
        teacher="tiny",
        family="dit",
        base="preset:tiny",
        policy=policy,
        components=components,
        nfe=2,
        shift=3.2,
        final_step_scale=0.5,
        segment=1 / 1.5,
        substeps=64,
        guidance=1.5,
        temperature="auto",
        logstd_width=8,
        iterations=7,
    )


def tiny_dit(in_channels: int = 2) -> DiT:
    torch.manual_seed(0)
    model = DiT(
        sample_size=4,
        patch_size=2,
        in_channels=in_channels,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_classes=3,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tiny_student(policy: str = "gm", components: int = 3) -> Student:
    return student_of(tiny_dit(), family_of("dit"), facts(policy, components), seed=0)


def velocity(student: Student) -> torch.Tensor:
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    raw = torch.full((2,), 0.8, dtype=torch.float64)
    with torch.no_grad():
        policy = student.policy(student.model, x, raw, student.family.condition(student.model, [0, 2]))
        return policy.velocity(x * 0.9, raw * 0.5)
