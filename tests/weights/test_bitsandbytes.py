"""Bases in int8 and nf4 as bitsandbytes makes them, where it is installed: on the CPU, which diffusers would refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import seeded
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from zoo import RAW, ZOO, disturb, student_of, zoo_preset

from piflow_cli.errors import RunError
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.open import open_student
from piflow_cli.students.student import Student
from piflow_cli.teachers import family_of
from piflow_cli.training.opening import open_models

bitsandbytes = pytest.importorskip("bitsandbytes")

# nf4 scales 64 weights of a row together.
ROW = replace(
    ZOO["flux"],
    config=ZOO["flux"].config | dict(
        in_channels=64, joint_attention_dim=64, pooled_projection_dim=64, attention_head_dim=32, num_attention_heads=4,
        axes_dims_rope=(8, 12, 12),
    ),
)  # fmt: skip
FAMILY = family_of("flux", ROW.guidance)
KINDS = {"int8": bitsandbytes.nn.Linear8bitLt, "nf4": bitsandbytes.nn.Linear4bit}
# Of what a layer answers, by its norm: 8 bits keep 2 decimals, 4 bits one.
ERRORS = {"int8": (0.002, 0.03), "nf4": (0.03, 0.15)}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch) -> None:
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    for kind in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
        monkeypatch.setattr(kind, "validate_environment", lambda self, *given, **options: None)
        monkeypatch.setattr(kind, "update_device_map", lambda self, device_map: {"": "cpu"})
    # Its kernels for some CPUs have no backward pass; without them the weights are unpacked, as on a GPU.
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)


def inputs() -> tuple[Tensor, dict[str, Tensor]]:
    # Not by autocast: it would have the plain model round its time and guidance to bfloat16, and the other not.
    def draw(seed: int, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=seeded(seed)).bfloat16()

    return draw(0, 2, 16, 8, 12), {"prompt_embeds": draw(1, 2, 7, 64), "pooled_prompt_embeds": draw(2, 2, 64)}


def gradients(student: Student) -> dict[str, Tensor]:
    x, told = inputs()
    policy = student.policy(student.model, x, RAW, told)
    (policy.velocity(x.float(), RAW) ** 2).mean().backward()
    return {name: value.grad for name, value in student.model.named_parameters()}


def unpacked(base: nn.Module) -> nn.Module:
    """A plain model that holds what is left of the weights."""
    plain = ROW.build().bfloat16()
    for path, layer in base.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(layer.weight, layer.weight.quant_state)
            plain.get_submodule(path).weight.data = weight.to(torch.bfloat16)
    return plain


@pytest.mark.parametrize("precision", KINDS)
def test_a_run_starts_from_a_quantised_base_near_the_whole_one(precision: str, tmp_path) -> None:
    _, preset = zoo_preset(ROW, tmp_path, adapter__base_precision=precision)
    teacher, student = open_models(preset, FAMILY)
    base = student.model.base
    assert sum(isinstance(module, KINDS[precision]) for module in base.modules()) > 20
    assert all(type(teacher.get_submodule(path)) is nn.Linear for path in FAMILY.kept_whole(base))
    low, high = ERRORS[precision]
    for path, plain in ROW.build().named_modules():
        layer = teacher.get_submodule(path)
        layer = getattr(layer, "base_layer", layer)
        if isinstance(layer, KINDS[precision]):
            x = torch.randn(5, plain.in_features, generator=seeded())
            with torch.no_grad():
                expected, found = plain(x), layer(x.bfloat16()).float()
            assert low < (found - expected).norm() / expected.norm() < high, path
    assert all(value.isfinite().all() and value.any() for name, value in gradients(student).items() if "lora_B" in name)


def test_a_base_in_nf4_trains_as_what_is_left_of_its_weights(tmp_path) -> None:
    zoo_preset(ROW, tmp_path)
    base = FAMILY.load_base(tmp_path / "base", "nf4")
    plain = student_of(ROW, unpacked(base))
    stored = student_of(ROW, base)
    for student in (plain, stored):
        disturb(student)
    expected, found = gradients(plain), gradients(stored)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 0.1 * value.norm() + 1e-6, name


def held(value: Tensor) -> int:
    """Bytes of activations that autograd functions hold by themselves, out of sight of checkpointing."""
    found, nodes, waiting = {}, set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [inner for inner, _ in node.next_functions]
            kept = [part for part in getattr(node, "tensors", None) or () if part is not None]
            found |= {part.data_ptr(): part.nbytes for part in kept if part.dtype == torch.bfloat16}
    return sum(found.values())


def test_checkpointing_frees_nothing_of_a_base_in_int8(tmp_path) -> None:
    """The reason why no student is trained on one."""
    zoo_preset(ROW, tmp_path)
    x, told = inputs()
    for precision in KINDS:
        base = FAMILY.load_base(tmp_path / "base", precision)
        student, bytes_held = student_of(ROW, base), []
        for checkpointing in (False, True):
            if checkpointing:
                base.enable_gradient_checkpointing()
            bytes_held.append(held(student.policy(student.model, x, RAW, told).velocity(x.float(), RAW).sum()))
        assert bytes_held[0] == bytes_held[1] and (bytes_held[0] > 0) == (precision == "int8")


@pytest.mark.parametrize("precision", KINDS)
def test_a_student_is_loaded_onto_a_quantised_base(precision: str, tmp_path) -> None:
    _, preset = zoo_preset(ROW, tmp_path)
    student = student_of(ROW, ROW.build())
    student.facts = replace(student.facts, base=preset.teacher.base)
    disturb(student)
    save_adapter(student, tmp_path / "adapter")
    again = open_student(tmp_path / "adapter", precision=precision)
    assert sum(isinstance(module, KINDS[precision]) for module in again.model.base.modules()) > 20
    own = dict(student.model.named_parameters())
    for name, value in again.model.named_parameters():
        torch.testing.assert_close(value.float(), own[name] * (2 if "lora_B" in name else 1), rtol=1e-2, atol=1e-2)
    x, told = inputs()
    with torch.no_grad():
        assert again.policy(again.model, x, RAW, told).velocity(x.float(), RAW).isfinite().all()


@pytest.mark.parametrize("precision", ["int8", "nf4"])
@pytest.mark.parametrize("shards", ["1GB", "200KB"])
def test_a_base_that_is_not_finite_is_named_though_its_quantised_weights_hide_it(tmp_path, precision, shards):
    ROW.build().save_pretrained(tmp_path, max_shard_size=shards)
    FAMILY.load_base(tmp_path, precision)
    name = "transformer_blocks.0.attn.to_q.weight"
    (file,) = [path for path in tmp_path.glob("*.safetensors") if name in load_file(path)]
    tensors = load_file(file)
    tensors[name][3, 5] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(RunError) as caught:
        FAMILY.load_base(tmp_path, precision)
    assert caught.value.message == f"{file} holds values that are not finite in {name}"
