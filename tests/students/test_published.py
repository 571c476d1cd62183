"""Students of the pi-Flow-ImageNet repository: files that say nothing, in folders that say a little."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_students import tiny_dit

from piflow_cli.errors import PiflowError
from piflow_cli.presets.resolve import load
from piflow_cli.students.adapters import adapter_tensors
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.open import find_student, open_student
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.weights.locate import locate

HIDDEN, POSITIONS, CHANNELS = 1152, 4, 4


def published(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "preset", "nfe", "guidance"),
    [
        ("gmdit_k32_imagenet_piid_1step", "imagenet-fm", 1, 2.7),
        ("gmdit_k32_imagenet_piid_2step", "imagenet-fm", 2, 2.7),
        ("gmrepa_k32_imagenet_piid_1step", "imagenet-repa", 1, 3.2),
        ("gmrepa_k32_imagenet_piid_2step", "imagenet-repa-2nfe", 2, 2.8),
    ],
)
def test_the_folder_tells_teacher_and_evaluations_and_the_head_its_size(
    tmp_path, name: str, preset: str, nfe: int, guidance: float
) -> None:
    head = {
        "proj_out_means.weight": torch.zeros(POSITIONS * 32 * CHANNELS, HIDDEN),
        "proj_out_logstds.1.weight": torch.zeros(1024, HIDDEN),
    }
    lines = []
    facts = find_student(
        published(tmp_path / name, {key: value.half() for key, value in head.items()}), say=lines.append
    ).facts
    assert (facts.teacher, facts.nfe, facts.guidance, facts.components, facts.logstd_width) == (
        preset,
        nfe,
        guidance,
        32,
        1024,
    )
    assert (facts.policy, facts.shift, facts.segment, facts.vae) == ("gm", 1.0, 1 / nfe, load(preset).teacher.vae)
    # The published samplers of ImageNet have no temperature.
    assert facts.sampling_temperature == 1.0
    assert lines == [f"the student does not say how it was trained: the values of the preset {preset} hold"]


@pytest.fixture
def tiny(tiny_teacher):
    """A student of the tiny teacher."""
    preset = load(str(tiny_teacher))
    family = family_of("dit")
    return student_of(family.load(Path(preset.teacher.base)), family, StudentFacts.of(preset), seed=0)


def tiny_velocity(student) -> torch.Tensor:
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    raw = torch.full((2,), 0.8, dtype=torch.float64)
    with torch.no_grad():
        policy = student.policy(student.model, x, raw, student.family.condition(student.model, [0, 2]))
        return policy.velocity(0.9 * x, 0.5 * raw)


@pytest.mark.parametrize("config", [None, '{"_class_name": "GMDiTTransformer2DModelV2", "num_gaussians": 3}'])
def test_all_weights_without_config_or_metadata_make_the_same_policies(
    tiny, tmp_path, config: str | None, tiny_teacher
) -> None:
    folder = published(tmp_path / "gmrepa_k32_imagenet_piid_2step", adapter_tensors(tiny))
    if config is not None:
        (folder / "config.json").write_text(config)
    again = open_student(folder, teacher=str(tiny_teacher))
    assert (again.facts.nfe, again.facts.components, again.facts.logstd_width) == (2, 3, 8)
    torch.testing.assert_close(tiny_velocity(again), tiny_velocity(tiny), rtol=0, atol=0)


def test_a_pickled_state_dict_makes_the_same_policies(tiny, tmp_path, tiny_teacher) -> None:
    torch.save({"state_dict": adapter_tensors(tiny)}, tmp_path / "student.pth")
    again = open_student(tmp_path / "student.pth", teacher=str(tiny_teacher))
    torch.testing.assert_close(tiny_velocity(again), tiny_velocity(tiny), rtol=0, atol=0)


def test_weights_of_another_architecture_are_refused(tiny, tmp_path, tiny_teacher) -> None:
    tensors = adapter_tensors(tiny)
    tensors["transformer_blocks.0.attn1.to_q.weight"] = torch.zeros(16, 8)
    del tensors["pos_embed.proj.bias"]
    with pytest.raises(
        PiflowError, match=r"pos_embed.proj.bias is missing; transformer_blocks.0.attn1.to_q.weight is \(16, 8\)"
    ):
        open_student(published(tmp_path / "student", tensors), teacher=str(tiny_teacher))


def test_a_teacher_is_no_student(tmp_path) -> None:
    with pytest.raises(PiflowError, match="does not say which policy it holds"):
        open_student(published(tmp_path / "teacher", dict(tiny_dit().state_dict())))


def test_tables_that_no_file_holds_are_computed(tiny, tmp_path, tiny_teacher) -> None:
    again = open_student(published(tmp_path / "student", adapter_tensors(tiny)), teacher=str(tiny_teacher))
    assert torch.equal(again.model.pos_embed.positions, tiny.model.pos_embed.positions)
    assert not any(value.is_meta for value in [*again.model.parameters(), *again.model.buffers()])


def test_a_student_of_our_own_needs_no_config_where_its_teacher_is_shipped(tmp_path) -> None:
    preset = load("digits")
    family = family_of("dit")
    student = student_of(family.load(locate(preset.teacher.base)), family, StudentFacts.of(preset), seed=0)
    save_file(adapter_tensors(student), tmp_path / "digits.safetensors", student.facts.to_metadata())
    again = open_student(tmp_path / "digits.safetensors")
    assert again.facts == student.facts
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in student.model.state_dict().items())
