"""One base as teacher, student and average, against models of their own, for every text-to-image family."""

import copy

import pytest
import torch
from helpers import seeded
from tiny_students import facts, tiny_dit
from torch import Tensor
from zoo import GRID, RAW, ZOO, Row, conditioning, disturb, every_network, facts_of, states, student_of

from piflow_cli.core.constants import ImitationConfig
from piflow_cli.core.draws import draw_segments
from piflow_cli.core.guidance import Guidance
from piflow_cli.core.heads import attach_head
from piflow_cli.core.imitation import data_free_losses
from piflow_cli.core.timegrid import to_sigma
from piflow_cli.errors import UsageError
from piflow_cli.presets.schema import AdapterSection
from piflow_cli.students.shared_base import root
from piflow_cli.students.student import Student, adapted_student, adapter_config, new_head
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import Network, teacher_velocity

# The second is so far from pure noise that errors of predicted noise are not bounded there.
STARTS = torch.tensor([0.9, 0.2], dtype=torch.float64)


def velocity(row: Row, model: Network, raw: Tensor = RAW) -> Tensor:
    """The teacher's, unguided."""
    with torch.no_grad():
        return family_of(row.family, row.guidance).velocity(
            model, states(row), to_sigma(raw, facts_of(row).shift), conditioning(row)
        )


def losses(row: Row, student: Student, model: Network, teacher: Network):
    """The pi-ID losses of one data-free step, as the training loop asks for them."""
    family, given = student.family, conditioning(row)
    guidance = Guidance(row.guidance if row.guidance_mode == "plain" else 1.0)
    config = ImitationConfig(GRID, states=2, window=1, substeps=16, dropout=0.2, components=student.facts.components)
    return data_free_losses(
        lambda x, raw: student.policy(model, x, raw, given),
        lambda x, sigma: teacher_velocity(family, teacher, guidance, x, sigma, given),
        states(row),
        config,
        draws=draw_segments(len(states(row)), config, seeded(5)),
    )


def gradients(
    row: Row, student: Student, model: Network, teacher: Network, parameters: dict[str, Tensor]
) -> dict[str, Tensor]:
    torch.manual_seed(7)
    for loss in losses(row, student, model, teacher):
        loss.backward()
    return {name: value.grad.clone() for name, value in parameters.items()}


@every_network
def test_the_teacher_is_bit_identical_before_during_and_after_training(row: Row) -> None:
    base = row.build()
    untouched = copy.deepcopy(base)
    student = student_of(row, base, dropout=0.1)
    student.model.shared.train_adapters()
    teacher = student.model.shared.view("teacher")
    expected = velocity(row, untouched)
    assert torch.equal(velocity(row, teacher), expected)
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=0.01)
    for _ in range(2):
        for loss in losses(row, student, student.model, teacher):
            loss.backward()
            assert torch.equal(velocity(row, teacher), expected)
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(velocity(row, teacher), expected)
    state = dict(base.named_parameters())
    theirs = {
        name.replace(".base_layer.", ".").replace(".variants.teacher.", "."): value for name, value in state.items()
    }
    assert all(torch.equal(value, theirs[name]) for name, value in untouched.named_parameters())


def alike(row: Row) -> torch.Tensor:
    """Which samples a student of the family starts as its teacher at: of predicted noise those far from pure noise."""
    parameterisation, sigma = family_of(row.family).parameterisation, to_sigma(STARTS, facts_of(row).shift)
    found = parameterisation.of_students(sigma).gain == parameterisation.affine(sigma).gain
    assert found.any() and (found.all() or not parameterisation.flow)
    return found


@every_network
@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_a_student_starts_with_the_velocity_of_its_teacher(row: Row, policy: str) -> None:
    expected = velocity(row, base := row.build(), STARTS)
    student = student_of(row, base, policy)
    if policy != "dx":
        # Without the noise on the means' biases every component is the teacher.
        for start in student.family.networks(base):
            path = start + row.head_site.projection
            head, projection = (
                view.get_submodule(path) for view in (student.model, student.model.shared.view("teacher"))
            )
            with torch.no_grad():
                head.means.bias.zero_() if projection.bias is None else head.means.bias.copy_(
                    head._rows(projection.bias, 3)
                )
    for role in ("student", "average")[: 2 if policy == "dx" else 1]:
        with torch.no_grad():
            policy_of = student.policy(student.model.shared.view(role), states(row), STARTS, conditioning(row))
            found = policy_of.velocity(states(row), STARTS)
        torch.testing.assert_close(found[alike(row)], expected[alike(row)], rtol=1e-4, atol=1e-5)


@every_network
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_gradients_equal_those_of_two_models(row: Row, checkpointing: bool) -> None:
    """The reference: an untouched teacher, and a student with plain peft adapters and the head for good."""
    base = row.build()
    teacher, reference = copy.deepcopy(base), copy.deepcopy(base)
    student = student_of(row, base)
    disturb(student)
    family = student.family
    targets = family.adapter_targets(reference)
    for start, network in family.networks(reference).items():
        site, head = new_head(network, family, student.facts)
        own = [path.removeprefix(start) for path in targets if path.startswith(start)]
        network.add_adapter(adapter_config(dict.fromkeys(own, 4), 2.0, 0.0), "default")
        attach_head(network, site, head)
        head.requires_grad_(True)
    for path in family.trained_in_full:
        reference.get_submodule(path).requires_grad_(True)
    theirs = {
        name.replace(".default.", "."): value for name, value in reference.named_parameters() if value.requires_grad
    }
    ours = dict(student.model.named_parameters())
    assert theirs.keys() == ours.keys()
    with torch.no_grad():
        for name, value in theirs.items():
            value.copy_(ours[name])
    if checkpointing:
        base.enable_gradient_checkpointing()
    found = gradients(row, student, student.model, student.model.shared.view("teacher"), ours)
    expected = gradients(row, student, reference, teacher, theirs)
    for name, value in expected.items():
        assert value.any(), name
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6 * value.abs().max().item() + 1e-9)


@every_network
def test_checkpointing_recomputes_the_same_dropout(row: Row) -> None:
    found = []
    for checkpointing in (False, True):
        student = student_of(row, row.build(), dropout=0.3)
        disturb(student)
        student.model.shared.train_adapters()
        if checkpointing:
            root(student.model).enable_gradient_checkpointing()
        found.append(
            gradients(
                row,
                student,
                student.model,
                student.model.shared.view("teacher"),
                dict(student.model.named_parameters()),
            )
        )
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6 * value.abs().max().item() + 1e-9)


def test_dropout_acts_on_the_student_alone() -> None:
    """Previews and the last pictures of a run are of the average, as `piflow sample` draws it."""
    row = ZOO["flux"]
    student = student_of(row, row.build(), dropout=0.5)
    disturb(student)
    average = student.average()
    average.model.load_state_dict(student.model.state_dict())
    student.model.shared.train_adapters()

    def policy(role: Student) -> Tensor:
        with torch.no_grad():
            return student.policy(role.model, states(row), RAW, conditioning(row)).velocity(states(row), RAW)

    drawn = policy(average)
    assert torch.equal(policy(average), drawn) and not torch.allclose(policy(student), drawn)


@every_network
def test_roles_leave_requires_grad_alone_and_rest_as_the_student(row: Row) -> None:
    base = row.build()
    student = student_of(row, base)
    shared = student.model.shared
    trained = {name for name, value in base.named_parameters() if value.requires_grad}
    assert {id(value) for value in student.model.parameters()} == {
        id(dict(base.named_parameters())[name]) for name in trained
    }
    x = states(row)
    resting = student.policy(base, x, RAW, conditioning(row)).velocity(x, RAW)
    for role in ("teacher", "average"):
        with shared.playing(role):
            assert {name for name, value in base.named_parameters() if value.requires_grad} == trained
        shared.view(role)
        velocity(row, shared.view("teacher"))
        torch.testing.assert_close(
            student.policy(base, x, RAW, conditioning(row)).velocity(x, RAW), resting, rtol=0, atol=0
        )
    with pytest.raises(ZeroDivisionError), shared.playing("teacher"):
        raise ZeroDivisionError
    assert base.training is False and {switch.role for switch in shared.switches.values()} == {"student"}


@every_network
def test_the_average_has_the_names_of_the_student_and_weights_of_its_own(row: Row) -> None:
    student = student_of(row, row.build())
    average = student.average()
    ours, theirs = dict(student.model.named_parameters()), dict(average.model.named_parameters())
    assert list(ours) == list(theirs) and ours
    assert not list(student.model.shared.view("teacher").named_parameters())
    assert not any(value.requires_grad for value in theirs.values()) and all(
        value.requires_grad for value in ours.values()
    )
    assert all(torch.equal(ours[name], theirs[name]) and ours[name] is not theirs[name] for name in ours)
    before = student.policy(average.model, states(row), RAW, conditioning(row)).velocity(states(row), RAW)
    assert not before.requires_grad
    disturb(student)
    after = student.policy(average.model, states(row), RAW, conditioning(row)).velocity(states(row), RAW)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    average.model.load_state_dict(student.model.state_dict())
    moved = student.policy(average.model, states(row), RAW, conditioning(row)).velocity(states(row), RAW)
    torch.testing.assert_close(
        moved, student.policy(student.model, states(row), RAW, conditioning(row)).velocity(states(row), RAW)
    )
    assert not torch.allclose(moved, before)


def test_a_state_of_other_names_is_refused() -> None:
    student = student_of(ZOO["flux"], ZOO["flux"].build())
    state = student.model.state_dict()
    state.pop("norm_out.linear.bias")
    with pytest.raises(KeyError, match="norm_out.linear.bias"):
        student.model.load_state_dict(state)


@every_network
def test_a_base_in_bf16_keeps_what_is_trained_in_full_precision(row: Row) -> None:
    base = row.build().to(torch.bfloat16)
    student = student_of(row, base)
    average = student.average()
    assert {value.dtype for model in (student, average) for value in model.model.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        policy = student.policy(student.model, states(row), STARTS, conditioning(row))
        (policy.velocity(states(row), STARTS) ** 2).mean().backward()
        expected = velocity(row, student.model.shared.view("teacher"), STARTS)
    found = policy.velocity(states(row), STARTS).detach().float()
    torch.testing.assert_close(found[alike(row)], expected[alike(row)].float(), rtol=0.1, atol=0.15)
    assert all(value.grad.isfinite().all() for value in student.model.parameters() if value.grad is not None)


def test_a_family_without_a_place_for_adapters_says_so(monkeypatch) -> None:
    row = ZOO["flux"]
    family = family_of("flux")
    monkeypatch.setattr(family, "adapter_targets", lambda model: [], raising=False)
    with pytest.raises(UsageError, match="trained in full"):
        adapted_student(row.build(), family, facts_of(row), AdapterSection(), seed=0)


def test_a_class_that_knows_nothing_of_adapters_carries_them_too() -> None:
    """The DiT has no add_adapter; its student shares it all the same."""
    base, family = tiny_dit(), family_of("dit")
    untouched = copy.deepcopy(base)
    student = adapted_student(base, family, facts("dx"), AdapterSection(4, 8.0, 0.0, "fp32"), seed=0)
    x, given = torch.randn(2, 2, 4, 4, generator=seeded()), family.condition(base, [0, 2])
    with torch.no_grad():
        expected = family.call(untouched, x, to_sigma(RAW, 3.2), given)
    torch.testing.assert_close(
        student.policy(student.model, x, RAW, given).velocity(x, RAW), expected, rtol=1e-4, atol=1e-5
    )
    disturb(student)
    student.policy(student.model, x, RAW, given).velocity(x, RAW).square().sum().backward()
    assert all(value.grad.any() for value in student.model.parameters())
    assert torch.equal(family.call(student.model.shared.view("teacher"), x, to_sigma(RAW, 3.2), given), expected)
