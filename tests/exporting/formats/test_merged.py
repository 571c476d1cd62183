"""The format `merged`: shards, fewer bits, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel
from exports import export, student
from safetensors.torch import load_file
from tiny_diffusion import FAMILIES, diffusion_facts, teacher
from zoo import ZOO

from piflow_cli.errors import RunError, UsageError
from piflow_cli.exporting import weights
from piflow_cli.exporting.formats import merged
from piflow_cli.exporting.formats.merged import MergedFormat, cast_weights
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.exporting.standalone.class_conditional import ClassConditionalPipeline
from piflow_cli.exporting.verify import reading_back
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.weights.whole import is_of_head


def test_shards_are_small_and_listed(tmp_path, monkeypatch) -> None:
    sizes = []
    save = weights.save_file

    def counted(tensors, path, metadata):
        sizes.append(sum(value.nbytes for value in tensors.values()))
        save(tensors, path, metadata)

    monkeypatch.setattr(weights, "SHARD_SIZE", 50_000)
    monkeypatch.setattr(weights, "save_file", counted)
    which = student("flux")
    folder = export(which, "merged", tmp_path / "out")
    index = json.loads((folder / weights.INDEX_NAME).read_text())
    files = set(index["weight_map"].values())
    assert len(files) == len(sizes) > 5 and all((folder / file).is_file() for file in files)
    assert index["weight_map"].keys() == weights.merged_weights(which).keys()
    # Never more than a shard in memory besides the student.
    assert max(sizes) <= 50_000 and sum(sizes) == index["metadata"]["total_size"]


@pytest.mark.parametrize(("dtype", "value"), [("fp16", 1e5), ("bf16", float("nan"))])
def test_weights_beyond_their_dtype_are_refused(dtype, value, tmp_path) -> None:
    which = student("dit")
    with torch.no_grad():
        which.model.proj_out_1.bias[0] = value
    with pytest.raises(RunError, match="proj_out_1.bias has values beyond the range of"):
        export(which, "merged", tmp_path / "out", dtype=dtype)


def test_fp8_halves_the_linear_weights_and_spares_head_and_norms(tmp_path) -> None:
    which = student("flux")
    folder = export(which, "merged", tmp_path / "out", quantise="fp8", dtype="bf16")
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    stored = {name for name, value in tensors.items() if value.dtype == torch.float8_e4m3fn}
    assert stored == cast_weights(which) and "transformer_blocks.0.attn.to_q.weight" in stored
    assert not any("norm" in name or is_of_head(name) for name in stored)
    exact = weights.merged_weights(which)["transformer_blocks.0.ff.net.2.weight"].tensor(torch.float32)
    error = (tensors["transformer_blocks.0.ff.net.2.weight"].float() - exact).abs()
    # Three bits after the leading one; below 2^-6 the steps are even.
    assert (error <= exact.abs().clamp(min=2**-6) * 2**-4 + 1e-9).all() and error.max() > 0


def test_fp8_is_kept_in_memory_too(tmp_path) -> None:
    folder = export(student("dit"), "merged", tmp_path / "out", quantise="fp8")
    with reading_back():
        model = AutoModel.from_pretrained(str(folder), trust_remote_code=True, torch_dtype=torch.bfloat16)
    assert model.transformer_blocks[0].ff.net[2].weight.dtype == torch.float8_e4m3fn
    assert model.proj_out_2.means.weight.dtype == torch.float32 and model.dtype == torch.bfloat16


def test_the_scale_of_adapters_counts_once() -> None:
    which = student("flux")
    assert which.model.shared.adapter_scale == 2
    merged_in = weights.merged_weights(which)
    own = dict(which.model.named_parameters())
    for path in which.family.adapter_targets(ZOO["flux"].build()):
        plain = ZOO["flux"].build().state_dict()[f"{path}.weight"].double()
        exact = plain + 2 * own[f"{path}.lora_B.weight"].double() @ own[f"{path}.lora_A.weight"].double()
        torch.testing.assert_close(
            merged_in[f"{path}.weight"].tensor(torch.float32).double(), exact, rtol=1e-5, atol=1e-6
        )


def test_a_merged_network_has_the_names_of_its_base_and_of_the_head() -> None:
    names = weights.merged_weights(student("flux")).keys()
    plain = ZOO["flux"].build().state_dict().keys()
    assert plain - names == {"proj_out.weight", "proj_out.bias"}
    assert all(name.startswith("proj_out.") for name in names - plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"with_base": False}, "--no-base: a merged network is its base"),
        ({"rank": 2}, "--rank is about adapters"),
        ({"quantise": "int3"}, "--quantise int3 is unknown"),
        ({"quantise": "int8"}, "--quantise int8 needs the package bitsandbytes"),
        ({"quantise": "nf4"}, "--quantise nf4 needs the package bitsandbytes"),
    ],
)
def test_what_cannot_be_merged(options, message, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=message) as caught:
        MergedFormat().check(student("flux").facts, ExportRequest("s", "merged", Path("out"), **options))
    assert caught.value.hint


def test_bitsandbytes_is_for_cuda(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(merged, "choose_device", lambda name: torch.device("cpu"))
    with pytest.raises(UsageError, match="--quantise nf4 needs a CUDA device"):
        MergedFormat().check(student("flux").facts, ExportRequest("s", "merged", Path("out"), quantise="nf4"))


def test_the_snippet_of_a_text_to_image_student_is_python() -> None:
    snippet = MergedFormat().snippet(student("flux").facts, "owner/name")
    compile(snippet, "snippet", "exec")
    assert "FluxPipeline.from_pretrained" in snippet and "guidance_scale=3.5" in snippet


@pytest.mark.parametrize("name", ["dit", *FAMILIES])
def test_the_snippet_of_a_class_conditional_student_makes_what_the_pipeline_does(name, tmp_path, monkeypatch) -> None:
    family = family_of(name)
    which = student_of(teacher(name), family, diffusion_facts(name), seed=0)
    folder = export(which, "merged", tmp_path / "out")
    noise = torch.randn(3, *family.sample_shape(which.model), generator=torch.Generator().manual_seed(0))
    drawn = torch.randn
    monkeypatch.setattr(
        torch, "randn", lambda *size, **told: noise.clone() if size == noise.shape else drawn(*size, **told)
    )
    names: dict = {}
    with reading_back():
        exec(MergedFormat().snippet(which.facts, str(folder)), names)
    pipeline = ClassConditionalPipeline(
        names["transformer"], names["scheduler"], None, which.facts.nfe, family.time_unit
    )
    expected = pipeline([0, 1, 2], latents=noise, output_type="latent").images
    torch.testing.assert_close(names["x"], expected, rtol=0, atol=0)
