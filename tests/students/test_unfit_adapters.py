"""Adapters and bases that do not fit each other, or are damaged: each is refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
from adapter_files import WEIGHTS, rewrite, saved
from zoo import ZOO

from piflow_cli.errors import PiflowError, RunError, UsageError
from piflow_cli.students.open import open_student


def other_layers(tensors, metadata, config) -> None:
    config["num_single_layers"] = 5


def more_layers(tensors, metadata, config) -> None:
    for part in "AB":
        tensors[f"transformer_blocks.9.ff.net.2.lora_{part}.weight"] = tensors[
            f"transformer_blocks.0.ff.net.2.lora_{part}.weight"
        ].clone()


def half_a_pair(tensors, metadata, config) -> None:
    del tensors["transformer_blocks.0.ff.net.2.lora_B.weight"]


def another_width(tensors, metadata, config) -> None:
    tensors["norm_out.linear.weight"] = torch.zeros(64, 48)


def no_head(tensors, metadata, config) -> None:
    for name in [name for name in tensors if name.startswith("proj_out_")]:
        del tensors[name]


def half_a_head(tensors, metadata, config) -> None:
    del tensors["proj_out_logstds.3.weight"]


def wrong_components(tensors, metadata, config) -> None:
    config["num_gaussians"] = 5
    published_metadata(tensors, metadata, config)


def components_in_words(tensors, metadata, config) -> None:
    config["num_gaussians"] = "three"
    published_metadata(tensors, metadata, config)


def no_object(tensors, metadata, config) -> None:
    published_metadata(tensors, metadata, config)
    metadata["policy_config"] = "[1]"


def not_a_number(tensors, metadata, config) -> None:
    tensors["transformer_blocks.0.ff.net.2.lora_B.weight"][0, 0] = float("nan")


def published_metadata(tensors, metadata, config) -> None:
    for name in list(metadata):
        del metadata[name]
    metadata["policy_config"] = json.dumps({"type": "GMFlow"})


def unknown_policy(tensors, metadata, config) -> None:
    published_metadata(tensors, metadata, config)
    metadata["policy_config"] = json.dumps({"type": "IBFlow"})


def no_policy(tensors, metadata, config) -> None:
    published_metadata(tensors, metadata, config)
    del metadata["policy_config"]
    metadata["format"] = "pt"
    no_head(tensors, metadata, config)
    tensors["proj_out.weight"] = torch.zeros(48, 32)


def only_lora(tensors, metadata, config) -> None:
    no_policy(tensors, metadata, config)
    for name in [name for name in tensors if "lora_" not in name]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_layers, "num_single_layers 5, and this one has 2"),
        (more_layers, "transformer_blocks.9.ff.net.2, which the base lacks"),
        (half_a_pair, "ff.net.2.lora_B.weight is missing"),
        (another_width, r"norm_out.linear.weight is \(64, 48\), not \(64, 32\)"),
        (half_a_head, "proj_out_logstds.3.weight is missing"),
        (no_head, "holds no policy head: it is a LoRA, not a student"),
        (only_lora, "holds no policy head: it is a LoRA, not a student"),
        (wrong_components, "its head has 3 components, and it is said to have 5"),
        (components_in_words, "the student cannot have components 'three'"),
        (no_object, "has a policy_config that is no JSON object"),
        (not_a_number, "is damaged: transformer_blocks.0.ff.net.2.lora_B.weight has values that are not finite"),
        (unknown_policy, "holds a policy of type 'IBFlow'"),
        (no_policy, "does not say which policy it holds"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(tmp_path, change, message) -> None:
    saved(ZOO["flux"], tmp_path)
    rewrite(tmp_path / "adapter", change)
    with pytest.raises(PiflowError, match=message) as caught:
        open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert caught.value.hint


def test_a_dx_config_of_another_number_of_points_is_refused(tmp_path) -> None:
    saved(ZOO["flux"], tmp_path, "dx")

    def five_points(tensors, metadata, config) -> None:
        config["out_channels"] = 5 * 16
        for name in list(metadata):
            del metadata[name]
        metadata["policy_config"] = json.dumps({"type": "DX", "segment_size": 0.3, "shift": 3.2})

    rewrite(tmp_path / "adapter", five_points)
    with pytest.raises(RunError, match="its head has 3 components, and it is said to have 5"):
        open_student(tmp_path / "adapter", base=str(tmp_path / "base"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # As diffusers reads it: as many as go in.
        ({"out_channels": None}, "its head has 3 components, and it is said to have 1"),
        ({"in_channels": 0}, "the student cannot have in_channels 0"),
        ({"in_channels": None, "out_channels": "48"}, "cannot have out_channels '48' and in_channels None"),
        ({"out_channels": True}, "cannot have out_channels True"),
        ({"out_channels": -48}, "cannot have out_channels -48"),
        ({"patch_size": 0}, "cannot have components 0"),
    ],
)
def test_a_dx_config_whose_channels_cannot_be_is_refused(tmp_path, fields, message) -> None:
    saved(ZOO["flux"], tmp_path, "dx")

    def change(tensors, metadata, config) -> None:
        published_metadata(tensors, metadata, config)
        metadata["policy_config"] = json.dumps({"type": "DX", "segment_size": 0.3, "shift": 3.2})
        config.update(fields)

    rewrite(tmp_path / "adapter", change)
    with pytest.raises(RunError, match=message) as caught:
        open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert caught.value.hint


@pytest.mark.parametrize("channels", ["48", [48], 48.0])
def test_a_student_in_full_whose_channels_are_no_number_is_refused(tmp_path, channels) -> None:
    saved(ZOO["flux"], tmp_path, "dx")

    def change(tensors, metadata, config) -> None:
        for name in [name for name in tensors if "lora_" in name]:
            del tensors[name]
        config["out_channels"] = channels

    rewrite(tmp_path / "adapter", change)
    with pytest.raises(RunError, match="describes no FluxTransformer2DModel: out_channels .* is no whole number"):
        open_student(tmp_path / "adapter")


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_an_adapter_that_is_cut_short_is_named(tmp_path, keep: float) -> None:
    saved(ZOO["flux"], tmp_path)
    path = tmp_path / "adapter" / WEIGHTS
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(RunError, match="corrupt or cut short") as caught:
        open_student(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert str(path) in caught.value.message


def test_a_base_of_another_layers_is_refused(tmp_path) -> None:
    saved(ZOO["flux"], tmp_path)
    ZOO["z-image"].build().save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match="holds a ZImageTransformer2DModel, not a FluxTransformer2DModel"):
        open_student(tmp_path / "adapter", base=str(tmp_path / "other"))
