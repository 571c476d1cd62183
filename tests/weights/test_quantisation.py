"""Bases in fewer bits, and bases that are offloaded: the same numbers as bases that
were rounded by hand, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from rounding import rounded
from zoo import RAW, ZOO, Row, conditioning, disturb, every_family, states, student_of, zoo_preset

from piflow_cli.errors import UsageError
from piflow_cli.students.student import Student
from piflow_cli.teachers import family_of
from piflow_cli.training.dry_run import fit, plan
from piflow_cli.training.dry_run.memory import Bytes
from piflow_cli.training.dry_run.room import Memory
from piflow_cli.training.opening import open_models
from piflow_cli.weights.quantisation import (
    check_offloading,
    check_precision,
    compute_in_float32,
    offload,
    quantised_loading,
    store_in_fp8,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def gradients(row: Row, student: Student, checkpointing: bool) -> dict[str, torch.Tensor]:
    disturb(student)
    if checkpointing:
        student.model.base.enable_gradient_checkpointing()
    policy = student.policy(student.model, states(row), RAW, conditioning(row))
    (policy.velocity(states(row), RAW) ** 2).mean().backward()
    return {name: value.grad for name, value in student.model.named_parameters()}


@every_family
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_a_base_in_fp8_trains_as_one_that_was_rounded(row: Row, checkpointing: bool) -> None:
    base = row.build()
    keep = family_of(row.family).kept_whole(base)
    expected = gradients(row, student_of(row, rounded(base, keep)), checkpointing)
    student = student_of(row, base)
    store_in_fp8(base, keep)
    found = gradients(row, student, checkpointing)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    stored = [value for name, value in base.named_parameters() if value.dtype == torch.float8_e4m3fn]
    assert len(stored) > 4 and not any(value.requires_grad for value in stored)
    # What is trained, and the projection that the teacher keeps, are whole.
    assert {value.dtype for value in student.model.parameters()} == {torch.float32}
    teacher, path = student.model.shared.view("teacher"), row.head_site.projection
    assert {teacher.get_submodule(start + path).weight.dtype for start in student.family.networks(base)} == {
        torch.float32
    }


def test_a_base_that_is_in_fp8_already_stays_as_it_is() -> None:
    """`piflow demo` opens the student that it has in memory again for each prompt."""
    row = ZOO["flux"]
    base = row.build()
    keep = family_of(row.family).kept_whole(base)
    store_in_fp8(base, keep)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    store_in_fp8(base, keep)
    after = base.state_dict()
    assert after.keys() == before.keys() and torch.float8_e4m3fn in {value.dtype for value in after.values()}
    assert all(torch.equal(after[name].float(), value.float()) for name, value in before.items())
    with torch.no_grad():
        assert family_of(row.family).call(base, states(row), RAW, conditioning(row)).isfinite().all()


@every_family
@torch.no_grad()
def test_a_base_in_bf16_computes_in_float32_as_one_that_was_widened(row: Row) -> None:
    family, narrow = family_of(row.family), row.build().bfloat16()
    whole = deepcopy(narrow).float()
    compute_in_float32(narrow, family.asks_for_dtype)
    found, expected = (family.call(model, states(row), RAW, conditioning(row)) for model in (narrow, whole))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found.dtype == torch.float32 and torch.bfloat16 in {value.dtype for value in narrow.parameters()}


@every_family
def test_an_offloaded_base_trains_as_one_that_stays(row: Row) -> None:
    expected = gradients(row, student_of(row, row.build()), checkpointing=True)
    base = row.build()
    student = student_of(row, base)
    offload(base, CPU)
    hooked = [name for name, module in base.named_modules() if module._forward_pre_hooks]
    assert len(hooked) > 4 and not any(".lora_" in name or ".variants." in name for name in hooked)
    found = gradients(row, student, checkpointing=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_a_base_in_bf16_is_the_loaded_one_bit_for_bit(tmp_path) -> None:
    row = ZOO["flux"]
    _, preset = zoo_preset(row, tmp_path, adapter__base_precision="bf16", optimisation__precision="bf16")
    family = family_of(row.family, row.guidance)
    _teacher, student = open_models(preset, family)
    plain = family.load(tmp_path / "base", torch.bfloat16)
    found = {
        name.replace(".base_layer.", ".").replace(".variants.teacher.", "."): value
        for name, value in student.model.base.named_parameters()
    }
    assert all(
        torch.equal(found[name], value) and found[name].dtype == torch.bfloat16
        for name, value in plain.named_parameters()
    )


@torch.no_grad()
def test_a_student_of_texts_that_is_trained_in_full_is_told_them_in_float32(tmp_path) -> None:
    """Text encoders answer in bfloat16, in which layers of float32 take nothing."""
    row = ZOO["wan"]
    _, preset = zoo_preset(row, tmp_path)
    family = family_of(row.family, row.guidance)
    told = conditioning(row)
    narrow = {name: value.bfloat16() for name, value in told.items()}
    teacher, student = open_models(replace(preset, adapter=None), family)
    for model in (teacher, student.model, student.average().model):
        found = family.call(model, states(row), RAW, narrow)
        wide = {name: value.float() for name, value in narrow.items()}
        torch.testing.assert_close(found, family.call(model, states(row), RAW, wide), rtol=0, atol=0)
        assert found.dtype == torch.float32


def test_a_run_with_a_base_in_fp8_starts_from_the_stored_weights(tmp_path) -> None:
    row = ZOO["flux"]
    _, preset = zoo_preset(row, tmp_path, adapter__base_precision="fp8")
    _, student = open_models(preset, family_of(row.family, row.guidance))
    dtypes = [value.dtype for value in student.model.base.parameters()]
    assert torch.float8_e4m3fn in dtypes and torch.bfloat16 in dtypes
    assert student.facts.base_dtype == "bfloat16"


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_precisions_of_bitsandbytes_say_what_they_lack(precision: str, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=f"a base in {precision} needs the package bitsandbytes") as caught:
        check_precision(precision, CUDA)
    assert "piflow[lowvram]" in caught.value.hint
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match=f"a base in {precision} needs a CUDA device"):
        check_precision(precision, CPU)
    check_precision(precision, CUDA)


def test_no_student_is_trained_on_a_base_in_int8(cli, tmp_path) -> None:
    (tmp_path / "p.txt").write_text("a\n")
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    arguments = ["--prompts", str(tmp_path / "p.txt"), "--set", "data.resolution=64", "--device", "cpu"]
    outcome = cli("distill", "--teacher", str(path), *arguments, "--base-precision", "int8")
    assert outcome.code == 2 and "cannot be trained on a base in int8" in outcome.err and "nf4" in outcome.err
    for precision in ("fp32", "bf16", "fp8"):
        check_precision(precision, CPU, trained=True)


def test_what_needs_nothing_is_let_through_and_offloading_needs_a_gpu() -> None:
    for precision in ("fp32", "bf16", "fp8"):
        check_precision(precision, CPU)
    with pytest.raises(UsageError, match="nothing to offload the base from"):
        check_offloading("base", CPU)
    with pytest.raises(UsageError, match="nothing to offload the text encoder from") as caught:
        check_offloading("text encoder", CPU)
    assert "--offload-text-encoder" in caught.value.hint
    check_offloading("base", CUDA)


def test_the_layers_that_are_trained_are_kept_out_of_the_quantised_ones(monkeypatch) -> None:
    import diffusers

    # Its own constructor asks for the package.
    monkeypatch.setattr(diffusers, "BitsAndBytesConfig", dict)
    keep = ["norm_out.linear", "proj_out"]
    assert quantised_loading("int8", keep)["quantization_config"] == {
        "load_in_8bit": True,
        "llm_int8_threshold": 0.0,
        "llm_int8_skip_modules": keep,
    }
    four = quantised_loading("nf4", keep)["quantization_config"]
    assert (
        four["load_in_4bit"]
        and four["bnb_4bit_quant_type"] == "nf4"
        and four["bnb_4bit_compute_dtype"] == torch.bfloat16
    )
    assert family_of("flux").kept_whole(ZOO["flux"].build()) == set(keep)


def test_a_precision_that_cannot_be_had_ends_in_one_line(cli, tmp_path, monkeypatch) -> None:
    (tmp_path / "p.txt").write_text("a\n")
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    arguments = [
        "distill",
        "--teacher",
        str(path),
        "--prompts",
        str(tmp_path / "p.txt"),
        "--set",
        "data.resolution=64",
        "--quiet",
    ]
    outcome = cli(*arguments, "--base-precision", "nf4", "--output", str(tmp_path / "out"))
    assert outcome.code == 2 and "a base in nf4 needs" in outcome.err and not (tmp_path / "out").exists()
    outcome = cli(*arguments, "--offload-base", "--output", str(tmp_path / "out"))
    assert outcome.code == 2 and "needs optimisation.gradient_checkpointing" in outcome.err
    checkpointing = ["--set", "optimisation.gradient_checkpointing=true"]
    outcome = cli(*arguments, *checkpointing, "--offload-base", "--base-precision", "nf4")
    assert outcome.code == 2 and "excludes adapter.base_precision nf4" in outcome.err
    # A plan needs the weights of no GPU.
    monkeypatch.setattr(plan, "choose_device", lambda name: CUDA)
    monkeypatch.setattr(fit, "memory_here", lambda device: Memory("an imagined GPU", Bytes(80 * 10**9), cuda=True))
    told = json.loads(
        cli(*arguments, *checkpointing, "--offload-base", "--base-precision", "fp8", "--dry-run", "--json").out
    )
    assert "the base is frozen in fp8" in told["student"]["trained"]


def test_a_family_that_is_not_quantised_says_so(tmp_path) -> None:
    with pytest.raises(UsageError, match="teachers of the family dit are not quantised"):
        family_of("dit").load_quantised(tmp_path, "nf4", [])


def test_text_encoders_are_not_offloaded_from_the_cpu(cli, tmp_path) -> None:
    (tmp_path / "p.txt").write_text("a\n")
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    arguments = [
        "--prompts",
        str(tmp_path / "p.txt"),
        "--set",
        "data.resolution=64",
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "out"),
    ]
    outcome = cli("distill", "--teacher", str(path), *arguments, "--offload-text-encoder")
    assert (
        outcome.code == 2
        and "nothing to offload the text encoder from" in outcome.err
        and not (tmp_path / "out").exists()
    )
