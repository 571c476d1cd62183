"""Bases with a fault in their files: every family, shards, VAE and text encoder name
the file and the tensor, and load nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipeline import whole_pipeline
from tiny_vae import tiny_vae
from torch import Tensor, nn
from zoo import ZOO

from piflow_cli.errors import RunError, UsageError
from piflow_cli.teachers import family_of
from piflow_cli.teachers.dit_network import DiT
from piflow_cli.teachers.loading import load_model
from piflow_cli.weights.locate import locate

Tensors = dict[str, Tensor]
DIT = {
    "sample_size": 4,
    "patch_size": 2,
    "in_channels": 1,
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_classes": 3,
}


def dit() -> nn.Module:
    torch.manual_seed(0)
    return DiT(**DIT)


def network(name: str) -> tuple[Callable[[], nn.Module], Callable[[Path], nn.Module]]:
    """How the model of a family is made, and how piflow loads it from its folder."""
    if name == "dit":
        return dit, family_of("dit").load
    return ZOO[name].build, family_of(name).load


# Those that lie in a folder of their own.
NETWORKS = {name: network(name) for name in ("dit", *(name for name, row in ZOO.items() if len(row.components) == 1))}
VAES = {
    f"vae of {name}": (
        lambda name=name: tiny_vae(name),
        lambda folder, name=name: family_of(name).load_vae(folder.parent),
    )
    for name in ("flux", "flux2", "qwen-image")
}
MODELS = NETWORKS | VAES


def lacking(tensors: Tensors) -> str:
    name = sorted(tensors)[0]
    del tensors[name]
    return f"lacks {name}"


def lacking_many(tensors: Tensors) -> str:
    first, *rest = names = sorted(tensors)[:5]
    for name in names:
        del tensors[name]
    return f"lacks {first}, {rest[0]}, {rest[1]} and 2 more"


def unknown(tensors: Tensors) -> str:
    tensors["blocks.99.odd.weight"] = torch.zeros(2)
    return "holds what is unknown to it: blocks.99.odd.weight"


def nan(tensors: Tensors) -> str:
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = torch.nan
    return f"holds values that are not finite in {name}"


def infinite(tensors: Tensors) -> str:
    name = sorted(tensors)[1]
    tensors[name].view(-1)[0], tensors[name].view(-1)[-1] = torch.inf, -torch.inf
    return f"holds values that are not finite in {name}"


def misshapen(tensors: Tensors) -> str:
    name = sorted(tensors)[0]
    tensors[name] = torch.zeros(3, 1, 2)
    return name


FAULTS = {fault.__name__: fault for fault in (lacking, lacking_many, unknown, nan, infinite, misshapen)}


def spoil(file: Path, fault: Callable[[Tensors], str]) -> str:
    """Put the fault into a file; returns what is to be said of it."""
    tensors = load_file(file)
    said = fault(tensors)
    save_file(tensors, file, {"format": "pt"})
    return said


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("model", MODELS)
def test_a_fault_is_one_line_with_file_and_tensor(model, fault, tmp_path, capfd):
    make, load = MODELS[model]
    folder = tmp_path / "vae"
    make().save_pretrained(folder)
    load(folder)
    capfd.readouterr()
    file = folder / "diffusion_pytorch_model.safetensors"
    said = spoil(file, fault)
    with pytest.raises(RunError) as caught:
        load(folder)
    assert str(file) in caught.value.message and said in caught.value.message and "\n" not in caught.value.message
    assert "--base PATH" in caught.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_in_a_shard_is_named(fault, tmp_path, capfd):
    ZOO["flux"].build().save_pretrained(tmp_path, max_shard_size="100KB")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    shard = tmp_path / sorted(set(json.loads(index.read_text())["weight_map"].values()))[1]
    said = spoil(shard, fault)
    said = said.replace("lacks", "lists what no shard holds:").replace(
        "holds what is unknown to it", "does not list what its shards hold"
    )
    with pytest.raises(RunError) as caught:
        family_of("flux").load(tmp_path)
    assert capfd.readouterr() == ("", "")
    named = shard if fault in (nan, infinite) else index
    assert str(named) in caught.value.message and said in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    "name",
    ["../stranger.safetensors", "/etc/stranger.safetensors", "sub/stranger.safetensors", "..\\stranger.safetensors"],
)
def test_an_index_reads_files_of_its_own_folder_alone(name, tmp_path):
    folder = tmp_path / "base"
    ZOO["flux"].build().save_pretrained(folder, max_shard_size="100KB")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][sorted(content["weight_map"])[0]] = name
    index.write_text(json.dumps(content))
    for read in (family_of("flux").load, lambda place: locate(str(place))):
        with pytest.raises(RunError, match="which is no file beside it"):
            read(folder)


@pytest.mark.parametrize("cut", ["one file", "a shard"])
def test_a_file_that_is_cut_short_is_named(cut, tmp_path):
    ZOO["flux"].build().save_pretrained(tmp_path, max_shard_size="100KB" if cut == "a shard" else "1GB")
    file = sorted(tmp_path.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match="is corrupt or cut short") as caught:
        family_of("flux").load(tmp_path)
    assert caught.value.message.startswith(str(file))


def test_pickled_weights_of_a_base_are_never_read(tmp_path):
    ZOO["flux"].build().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(UsageError, match="there are no weights in") as caught:
        family_of("flux").load(tmp_path)
    assert ".safetensors" in caught.value.hint


def test_values_too_large_to_be_summed_are_finite(tmp_path):
    model = ZOO["flux"].build()
    with torch.no_grad():
        model.proj_out.weight.fill_(3e38)
    model.save_pretrained(tmp_path)
    assert family_of("flux").load(tmp_path).proj_out.weight.min() == torch.tensor(3e38)


def test_a_vae_with_the_names_of_older_releases_is_whole(tmp_path):
    """diffusers renames the attention of old files; nothing is missing in them."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(4,),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    )
    vae.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {
            key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): value for key, value in tensors.items()
        }
    assert any(".query." in name for name in tensors)
    save_file(tensors, file, {"format": "pt"})
    found = load_model(AutoencoderKL, tmp_path, torch.float32).state_dict()
    assert all(torch.equal(found[name], value) for name, value in vae.state_dict().items())


@pytest.mark.parametrize("fault", [lacking, unknown, nan])
def test_text_encoders_are_read_whole(fault, tmp_path):
    whole_pipeline(tmp_path)
    assert family_of("flux").text_pipeline(tmp_path).text_encoder_2.dtype == torch.bfloat16
    file = tmp_path / "text_encoder" / "model.safetensors"

    def inside(tensors: Tensors) -> str:
        if fault is not unknown:
            return fault(tensors)
        name = sorted(tensors)[-1].partition(".")[0] + ".layers.99.weight"
        tensors[name] = torch.zeros(2)
        return f"holds what is unknown to it: {name}"

    said = spoil(file, inside)
    with pytest.raises(RunError) as caught:
        family_of("flux").text_pipeline(tmp_path)
    assert str(file) in caught.value.message and said in caught.value.message


def test_the_head_of_a_whole_language_model_is_left_where_it_is(tmp_path):
    whole_pipeline(tmp_path)
    spoil(
        tmp_path / "text_encoder_2" / "model.safetensors",
        lambda tensors: str(tensors.update({"lm_head.weight": torch.zeros(2, 2)})),
    )
    assert family_of("flux").text_pipeline(tmp_path).text_encoder_2 is not None


def test_the_command_line_names_what_a_base_lacks(cli, tiny_teacher, tmp_path):
    dit().save_pretrained(tmp_path / "base")
    said = spoil(tmp_path / "base" / "diffusion_pytorch_model.safetensors", lacking)
    outcome = cli(
        "sample",
        "--teacher",
        str(tiny_teacher),
        "--base",
        str(tmp_path / "base"),
        "--seeds",
        "0",
        "--output",
        str(tmp_path / "out"),
    )
    assert outcome.code == 1 and said in outcome.err and len(outcome.err.splitlines()) == 2
