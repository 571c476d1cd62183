"""Checksums of adapters: one changed byte is noticed, files of other tools are not in
the way, and a meant change has a way on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from adapter_files import WEIGHTS, rewrite, saved
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_students import facts, tiny_student, velocity
from zoo import ZOO

from piflow_cli.errors import PiflowError, RunError
from piflow_cli.presets.resolve import load
from piflow_cli.students.adapter_digests import DIGESTS
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.open import find_student, open_student
from piflow_cli.students.stated import METADATA_PREFIX
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.weights.locate import locate


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digests") / "adapter"
    save_adapter(tiny_student(), folder)
    return folder


def copied(adapter: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def metadata_of(folder: Path) -> dict[str, str]:
    with safe_open(folder / WEIGHTS, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_every_changed_byte_is_noticed(adapter, name: str, tmp_path) -> None:
    """All bytes of the header and of the config, and some of the tensors, each with one bit over."""
    folder = copied(adapter, tmp_path / "copy")
    data = (folder / name).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little") if name == WEIGHTS else len(data)
    draw = random.Random(0)
    places = sorted({*draw.sample(range(header), min(header, 400)), *(draw.randrange(len(data)) for _ in range(100))})
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(flipped)
        with pytest.raises(RunError) as caught:
            open_student(folder)
        assert caught.value.exit_code == 1 and caught.value.hint and "\n" not in caught.value.message, place
    (folder / name).write_bytes(data)
    torch.testing.assert_close(velocity(open_student(folder)), velocity(open_student(adapter)), rtol=0, atol=0)


def test_an_adapter_without_checksums_loads_as_before(adapter, tmp_path) -> None:
    folder = copied(adapter, tmp_path / "copy")
    rewrite(folder, lambda tensors, metadata, config: None)
    assert not set(DIGESTS) & metadata_of(folder).keys()
    assert open_student(folder).facts == facts()


@pytest.mark.parametrize("missing", DIGESTS)
def test_a_part_of_the_checksums_is_a_fault(adapter, missing: str, tmp_path) -> None:
    folder = copied(adapter, tmp_path / "copy")
    save_file(
        load_file(folder / WEIGHTS),
        folder / WEIGHTS,
        {name: value for name, value in metadata_of(folder).items() if name != missing},
    )
    with pytest.raises(RunError, match=f"its metadata lack {missing}"):
        find_student(folder)


def test_the_order_of_metadata_and_tensors_is_no_change(adapter, tmp_path) -> None:
    folder = copied(adapter, tmp_path / "copy")
    tensors = load_file(folder / WEIGHTS)
    save_file(
        {name: tensors[name] for name in reversed(tensors)},
        folder / WEIGHTS,
        dict(reversed(metadata_of(folder).items())),
    )
    assert open_student(folder).facts == facts()


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "bfloat16"])
def test_an_adapter_that_another_tool_cast_is_read_and_said(kind: str, tmp_path) -> None:
    student = saved(ZOO["flux"], tmp_path)
    path, dtype = tmp_path / "adapter" / WEIGHTS, getattr(torch, kind)
    cast = {name: value.to(dtype) if ".lora_" in name else value for name, value in load_file(path).items()}
    save_file(cast, path, metadata_of(path.parent))
    lines = []
    again = open_student(path.parent, base=str(tmp_path / "base"), say=lines.append)
    assert len(lines) == 1 and f"was saved in float32 and is in float32,{kind}" in lines[0].replace(
        f"{kind},float32", f"float32,{kind}"
    )
    for name, value in again.model.state_dict().items():
        if ".lora_" in name:
            assert value.dtype == torch.float32 and torch.equal(value, cast[name].float())
    assert again.facts == student.facts
    name = next(name for name in cast if ".lora_A." in name)
    save_file(
        {**cast, name: torch.full_like(cast[name].float(), float("nan")).to(dtype)}, path, metadata_of(path.parent)
    )
    with pytest.raises(RunError, match=f"is damaged: {name} has values that are not finite"):
        open_student(path.parent, base=str(tmp_path / "base"))


def test_a_change_that_is_meant_has_a_way_on(cli, tmp_path, monkeypatch) -> None:
    """The hint of the refusal is a command that works, with pictures on the card."""
    monkeypatch.chdir(tmp_path)
    preset, family = load("digits"), family_of("dit")
    save_adapter(
        student_of(family.load(locate(preset.teacher.base)), family, StudentFacts.of(preset), seed=0),
        tmp_path / "adapter",
    )
    folder = tmp_path / "adapter"
    tensors = load_file(folder / WEIGHTS)
    tensors["proj_out_means.bias"] += 1
    save_file(tensors, folder / WEIGHTS, metadata_of(folder))
    with pytest.raises(RunError, match="is not as it was saved: its checksum differs") as caught:
        open_student(folder)
    command = caught.value.hint.split("piflow ")[1].split()
    outcome = cli(*command, "--device", "cpu", "--quiet")
    assert outcome.code == 0, outcome.err
    (new,) = (tmp_path / "exports").iterdir()
    assert (new / "samples.png").is_file()
    assert torch.equal(open_student(new).model.state_dict()["proj_out_2.means.bias"], tensors["proj_out_means.bias"])
    assert set(DIGESTS) <= metadata_of(new).keys()
    for format in ("merged", "pipeline"):
        outcome = cli("export", str(folder), "--format", format, "--accept-changed", "--output", str(tmp_path / format))
        assert outcome.code == 2 and "--accept-changed is for --format adapter" in outcome.err


def test_no_path_of_this_machine_is_in_the_config(tmp_path) -> None:
    """Not that of the base, which from_pretrained leaves in the model's config."""
    saved(ZOO["flux"], tmp_path)
    again = open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
    save_adapter(again, tmp_path / "again")
    text = (tmp_path / "again" / "config.json").read_text()
    assert str(tmp_path) not in text and "_name_or_path" not in text and json.loads(text)["num_gaussians"] == 3


# What a student says of itself.

TOLD = facts().to_metadata()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "nan"), ("temperature", "0"), ("temperature", "1.5"), ("temperature", "warm"),
        ("nfe", "1000000000"), ("nfe", "0"),
        ("nfe", "2.0"), ("shift", "0"), ("shift", "inf"), ("shift", "nan"), ("substeps", "-3"),
        ("substeps", "1000000000"),
        ("final_step_scale", "0"), ("final_step_scale", "2"), ("segment", "-1"), ("components", "0"),
        ("components", "99999999"),
        ("guidance", "nan"), ("guidance", "-1"), ("logstd_width", "0"), ("iterations", "-1"), ("base_dtype", "int8"),
        ("base_dtype", "nn"),
        ("teacher", ""), ("teacher", "a\nb"), ("version", "x" * 5000),
    ],
)  # fmt: skip
def test_a_fact_out_of_range_is_named(name: str, value: str) -> None:
    with pytest.raises(RunError, match=f"{METADATA_PREFIX}{name} is ") as caught:
        StudentFacts.from_metadata({**TOLD, f"{METADATA_PREFIX}{name}": value})
    assert caught.value.exit_code == 1 and caught.value.hint and "\n" not in caught.value.message


@given(st.sampled_from(sorted(TOLD)), st.text(max_size=30) | st.floats().map(str) | st.integers().map(str))
@example("piflow.nfe", "٤")
def test_whatever_a_fact_is_it_is_read_or_named(name: str, value: str) -> None:
    """What is read survives: written again it says the same, and every number is
    finite and of a size that a sampler can take."""
    try:
        told = StudentFacts.from_metadata({**TOLD, name: value})
    except PiflowError as error:
        assert "\n" not in error.message and error.hint
        return
    assert StudentFacts.from_metadata(told.to_metadata()) == told
    assert (
        1 <= told.nfe <= 1000
        and 1 <= told.substeps <= 100_000
        and 0 < told.shift <= 1000
        and 0 < told.final_step_scale <= 1
    )
    assert told.temperature == "auto" or 0 < float(told.temperature) <= 1


def test_a_fact_that_is_unknown_is_named() -> None:
    with pytest.raises(RunError, match="piflow.colour is unknown"):
        StudentFacts.from_metadata({**TOLD, "piflow.colour": "red"})


def whole_numbers(tensors, metadata, config) -> None:
    tensors["proj_out_means.weight"] = tensors["proj_out_means.weight"].to(torch.int64)


def another_field(tensors, metadata, config) -> None:
    config["num_layres"] = 3


def a_million_layers(tensors, metadata, config) -> None:
    config["num_layers"] = 10**9


def no_width(tensors, metadata, config) -> None:
    config["attention_head_dim"] = "wide"


def an_odd_patch(tensors, metadata, config) -> None:
    config["patch_size"] = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (whole_numbers, "proj_out_means.weight is stored in torch.int64, not in floats"),
        (another_field, "config.json says num_layres, which a DiT has no use for"),
        (a_million_layers, "config.json says num_layers 1000000000, and there are"),
        (no_width, "config.json describes no DiT"),
        (an_odd_patch, "config.json describes no DiT: sample_size 4 is not a multiple of patch_size 3"),
    ],
)
def test_a_config_or_tensor_that_cannot_be_is_refused(adapter, change, message: str, tmp_path) -> None:
    folder = copied(adapter, tmp_path / "copy")
    rewrite(folder, change)
    with pytest.raises(RunError, match=message) as caught:
        open_student(folder)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["sample_size", "in_channels", "time_scale"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, None, "x", [1], {}])
def test_a_size_of_a_network_that_cannot_be_is_refused_by_name(adapter, name: str, value: object, tmp_path) -> None:
    def change(tensors, metadata, config) -> None:
        config[name] = value

    folder = copied(adapter, tmp_path / "copy")
    rewrite(folder, change)
    with pytest.raises(RunError, match=f"config.json describes no DiT: {name} .* is not a .*number above 0") as caught:
        open_student(folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 32), "no matrix"),
        ((), "no matrix"),
        ((2, 2, 32), "no matrix"),
        ((500, 32), "has rank 500, and the layer is 128 wide"),
    ],
)
def test_an_absurd_rank_is_refused(shape: tuple[int, ...], message: str, tmp_path) -> None:
    saved(ZOO["flux"], tmp_path)
    name = "transformer_blocks.0.ff.net.0.proj.lora_A.weight"
    rewrite(tmp_path / "adapter", lambda tensors, metadata, config: tensors.update({name: torch.ones(shape)}))
    with pytest.raises(RunError, match=message):
        open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
