import torch
from tiny_students import facts, tiny_student, velocity

from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.weights.locate import locate


def test_a_student_of_the_shipped_teacher_starts_with_its_velocity() -> None:
    family = family_of("dit")
    teacher = family.load(locate("preset:digits"))
    student = student_of(teacher, family, facts("dx"), seed=0)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    raw = torch.tensor([1.0, 0.7, 0.2], dtype=torch.float64)
    conditioning = family.condition(teacher, [1, 5, 9])
    policy = student.policy(student.model, x, raw, conditioning)
    torch.testing.assert_close(
        policy.velocity(x, raw), family.call(teacher, x, policy.sigma_src, conditioning), rtol=1e-4, atol=1e-5
    )


def test_making_a_student_leaves_the_teacher_alone() -> None:
    family = family_of("dit")
    teacher = family.load(locate("preset:digits"))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = student_of(teacher, family, facts(), seed=0)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.add_(1)
    after = teacher.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert teacher.out_channels == 1


def test_the_average_is_a_copy_of_its_own() -> None:
    student = tiny_student()
    average = student.average()
    torch.testing.assert_close(velocity(average), velocity(student), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    before = velocity(average)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(velocity(average), before, rtol=0, atol=0)


def test_the_scheduler_is_the_one_the_student_was_trained_for() -> None:
    config = tiny_student().scheduler().config
    assert (config.kind, config.components, config.shift, config.final_step_scale, config.substeps) == (
        "gm",
        3,
        3.2,
        0.5,
        64,
    )
    changed = tiny_student().scheduler(substeps=8, temperature=0.5, stochastic=1.0).config
    assert (changed.substeps, changed.temperature, changed.stochastic) == (8, 0.5, 1.0)


def test_initialisation_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    one = tiny_student()
    torch.manual_seed(2)
    two = tiny_student()
    torch.testing.assert_close(velocity(one), velocity(two), rtol=0, atol=0)
