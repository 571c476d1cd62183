"""`--format adapter`: the published layout as it came, rounded, and with adapters of lower rank."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_students import tiny_student
from zoo import Row, disturb, every_family, student_of

from piflow_cli.console import Console
from piflow_cli.errors import RunError, UsageError
from piflow_cli.exporting.driver import export
from piflow_cli.exporting.formats.adapter import AdapterFormat, reduced
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.exporting.verify import fixed_inputs, largest_difference, velocities
from piflow_cli.students.adapters import adapter_tensors, holding, save_adapter
from piflow_cli.students.locate import WEIGHTS_NAME
from piflow_cli.students.open import FoundStudent, open_student
from piflow_cli.students.student import Student
from piflow_cli.weights.stored import StoredWeights

FLUX_TINY = GOLDEN / "flux-tiny"
BASE = str(FLUX_TINY / "transformer")
QUIET = Console(quiet=True)


def request(student: Path, output: Path, **options) -> ExportRequest:
    return ExportRequest(str(student), "adapter", output, device="cpu", **options)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path / WEIGHTS_NAME, "pt") as file:
        return file.metadata()


def rewritten(folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Path:
    """The golden adapter with other tensors and metadata."""
    folder.mkdir()
    (folder / "config.json").write_text((FLUX_TINY / "adapter" / "config.json").read_text())
    save_file(tensors, folder / WEIGHTS_NAME, metadata)
    return folder


def test_the_published_adapter_is_written_as_it_came(tmp_path) -> None:
    report = export(request(FLUX_TINY / "adapter", tmp_path / "out", base=BASE), QUIET)
    theirs, ours = (load_file(folder / WEIGHTS_NAME) for folder in (FLUX_TINY / "adapter", tmp_path / "out"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) and theirs[name].dtype == ours[name].dtype for name in theirs)
    assert metadata(FLUX_TINY / "adapter").items() <= metadata(tmp_path / "out").items()
    assert metadata(tmp_path / "out")["piflow.nfe"] == "4"
    assert report["largest_difference_from_the_student"] == 0
    assert sorted(path.name for path in report["files"]) == ["README.md", "SHA256SUMS", "config.json", WEIGHTS_NAME]


def test_a_half_precision_adapter_stays_one_and_keeps_what_others_said_in_it(tmp_path) -> None:
    tensors = {
        f"transformer.{name}": value.bfloat16()
        for name, value in load_file(FLUX_TINY / "adapter" / WEIGHTS_NAME).items()
    }
    told = {"policy_config": '{"type":"GMFlow"}', "made_by": "another tool"}
    export(request(rewritten(tmp_path / "in", tensors, told), tmp_path / "out", base=BASE), QUIET)
    ours = load_file(tmp_path / "out" / WEIGHTS_NAME)
    assert all(torch.equal(ours[name.removeprefix("transformer.")], value) for name, value in tensors.items())
    assert {value.dtype for value in ours.values()} == {torch.bfloat16}
    assert told.items() <= metadata(tmp_path / "out").items()


@pytest.mark.parametrize(
    ("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_every_tensor_is_rounded_to_what_is_asked_for(tmp_path, dtype: str, kind: torch.dtype) -> None:
    report = export(request(FLUX_TINY / "adapter", tmp_path / "out", base=BASE, dtype=dtype), QUIET)
    theirs, ours = (load_file(folder / WEIGHTS_NAME) for folder in (FLUX_TINY / "adapter", tmp_path / "out"))
    assert all(torch.equal(ours[name], value.to(kind)) for name, value in theirs.items())
    assert report["largest_difference_from_the_student"] <= AdapterFormat().tolerance(
        request(tmp_path, tmp_path, dtype=dtype)
    )


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_tolerances_are_of_the_size_of_rounding(dtype: str, kind: torch.dtype) -> None:
    """Rounding moves the policies of a float32 student by less than is allowed, and by more than a thousandth of it."""
    student = open_student(FLUX_TINY / "adapter", base=BASE)
    inputs, rounded = fixed_inputs(student), {name: value.to(kind) for name, value in adapter_tensors(student).items()}
    before = velocities(student, inputs)
    with holding(student, StoredWeights(Path("rounded"), rounded)):
        moved = largest_difference(velocities(student, inputs), before)
    allowed = AdapterFormat().tolerance(request(Path(), Path(), dtype=dtype))
    assert 0.001 * allowed < moved < allowed


@every_family
@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_a_student_of_every_family_comes_back(row: Row, policy: str, tmp_path) -> None:
    row.save(tmp_path / "base")
    student = student_of(row, row.build(), policy)
    disturb(student)
    save_adapter(student, tmp_path / "adapter")
    export(request(tmp_path / "adapter", tmp_path / "out", base=str(tmp_path / "base")), QUIET)
    again = open_student(tmp_path / "out", base=str(tmp_path / "base"))
    assert again.facts == student.facts
    inputs = fixed_inputs(student)
    assert largest_difference(velocities(again, inputs), velocities(student, inputs)) < 1e-5


def test_a_student_that_brings_all_its_weights_comes_back(tmp_path) -> None:
    student = tiny_student("dx")
    # With a VAE to be fetched there is no picture on its card.
    save_adapter(Student(student.family, student.model, replace(student.facts, vae="owner/vae")), tmp_path / "adapter")
    export(request(tmp_path / "adapter", tmp_path / "out"), QUIET)
    inputs = fixed_inputs(student)
    assert torch.equal(velocities(open_student(tmp_path / "out"), inputs), velocities(student, inputs))
    with pytest.raises(UsageError, match="this student is trained in full"):
        export(request(tmp_path / "adapter", tmp_path / "low", rank=2), QUIET)
    with pytest.raises(UsageError, match="this student brings all of its own"):
        export(request(tmp_path / "adapter", tmp_path / "low", base=BASE), QUIET)
    assert not (tmp_path / "low").exists()


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(2, 15), st.integers(2, 15), st.integers(1, 12))
def test_the_lower_rank_is_the_best_there_is(full: int, out: int, into: int, rank: int) -> None:
    """Eckart-Young: what is lost is the tail of the product's singular values."""
    generator = seeded(full * 1000 + out * 50 + into)
    first = torch.randn(full, into, generator=generator, dtype=torch.float64)
    second = torch.randn(out, full, generator=generator, dtype=torch.float64)
    cut_first, cut_second, lost, whole = reduced(first, second, rank)
    squares = torch.linalg.svdvals(second @ first).square()
    assert whole == pytest.approx(squares.sum().item(), rel=1e-9)
    if rank >= full:
        assert cut_first is first and cut_second is second and lost == 0
        return
    assert cut_first.shape[0] == cut_second.shape[1] == min(rank, out, into)
    assert lost == pytest.approx(squares[rank:].sum().item(), rel=1e-9, abs=1e-9)
    assert (second @ first - cut_second @ cut_first).square().sum().item() == pytest.approx(lost, rel=1e-8, abs=1e-9)


def test_a_lower_rank_prints_what_it_costs_and_loads_as_it_was_cut(tmp_path) -> None:
    costs = {}
    for rank in (1, 3, 4):
        report = export(request(FLUX_TINY / "adapter", tmp_path / str(rank), base=BASE, rank=rank), QUIET)
        shapes = {name: value.shape for name, value in load_file(tmp_path / str(rank) / WEIGHTS_NAME).items()}
        assert {shape[0] for name, shape in shapes.items() if "lora_A" in name} == {rank}
        costs[rank] = (report["rank_error"], report["rank_policy_change"])
        assert report["largest_difference_from_the_student"] < 1e-6
    assert costs[4] == (0, 0) and costs[1] > costs[3] > (0, 0)
    source, cut = (
        open_student(folder, base=BASE, dtype=None, as_stored=True)
        for folder in (FLUX_TINY / "adapter", tmp_path / "1")
    )
    inputs = fixed_inputs(source)
    moved = largest_difference(velocities(cut, inputs), velocities(source, inputs))
    assert moved == pytest.approx(costs[1][1], rel=1e-3)


def test_values_beyond_half_precision_are_refused(tmp_path) -> None:
    tensors = load_file(FLUX_TINY / "adapter" / WEIGHTS_NAME)
    tensors["proj_out_means.bias"][0] = 1e6
    source = rewritten(tmp_path / "in", tensors, {"policy_config": json.dumps({"type": "GMFlow"})})
    with pytest.raises(RunError, match="proj_out_means.bias has values beyond the range of float16"):
        export(request(source, tmp_path / "out", base=BASE, dtype="fp16"), QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"quantise": "fp8"}, "--quantise is for a base"), ({"with_base": False}, "never holds its base")],
)
def test_what_an_adapter_cannot_be_is_said_before_anything_is_loaded(tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.setattr(FoundStudent, "load", lambda *given, **told: pytest.fail("it is loaded"))
    with pytest.raises(UsageError, match=message):
        export(request(FLUX_TINY / "adapter", tmp_path / "out", base=BASE, **options), QUIET)
