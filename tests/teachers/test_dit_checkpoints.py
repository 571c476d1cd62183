"""Released ImageNet checkpoints: converted, they give the velocity that their
own model implies; what is wrong is named."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sit import CLASSES, HEADS, LAYERS, SIZE, WIDTH, sit, sit_weights

from piflow_cli.errors import PiflowError, RunError, UsageError
from piflow_cli.system.files import user_cache
from piflow_cli.teachers import dit_checkpoints, family_of
from piflow_cli.teachers.dit_checkpoints import converted
from piflow_cli.teachers.dit_network import DiT
from piflow_cli.weights.stored import read_checkpoint

GIVEN = {"num_attention_heads": HEADS}
OURS = {
    "sample_size": SIZE,
    "num_layers": LAYERS,
    "num_attention_heads": HEADS,
    "attention_head_dim": WIDTH // HEADS,
    "num_classes": CLASSES,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "piflow" / "teachers"


def published(time_scale: float = 1000.0) -> DiT:
    """A small teacher with the names of the published ones."""
    torch.manual_seed(0)
    model = DiT(**OURS, time_scale=time_scale)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(3, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.0, 0.37, 1.0]), torch.tensor([0, 4, CLASSES])


def saved(content: object, path: Path) -> Path:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


@torch.no_grad()
def velocity(folder: Path) -> torch.Tensor:
    family = family_of("dit")
    x, sigma, labels = inputs()
    return family.call(family.load(folder), x, sigma, {"class_labels": labels})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("learned_variance", [True, False])
def test_a_converted_sit_gives_minus_its_output_at_one_minus_sigma(tmp_path, suffix, learned_variance):
    weights = sit_weights(learned_variance=learned_variance)
    x, sigma, labels = inputs()
    folder = converted(saved(weights, tmp_path / f"sit{suffix}"), GIVEN)
    torch.testing.assert_close(velocity(folder), -sit(weights, x, 1 - sigma, labels), rtol=1e-4, atol=1e-4)
    config = json.loads((folder / "config.json").read_text())
    assert {key: config[key] for key in OURS} == OURS and config["time_scale"] == 1.0


def test_a_converted_repa_gives_its_own_output_at_sigma(tmp_path):
    weights = sit_weights(learned_variance=False, projectors=True)
    x, sigma, labels = inputs()
    content = {
        "model": sit_weights(seed=1),
        "ema": weights,
        "opt": {"step": 3},
        "args": argparse.Namespace(lr=1e-4),
        "steps": 9,
    }
    folder = converted(saved(content, tmp_path / "repa.pt"), GIVEN)
    torch.testing.assert_close(velocity(folder), sit(weights, x, sigma, labels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {f"module.{k}": v for k, v in state.items()},
    ],
)
@pytest.mark.parametrize("time_scale", [1000.0, 1.0])
def test_a_published_teacher_is_taken_as_it_is(tmp_path, wrap, time_scale):
    model = published(time_scale)
    folder = converted(
        saved(wrap(model.state_dict()), tmp_path / "teacher.pth"),
        {**GIVEN, "sample_size": SIZE, "time_scale": time_scale},
    )
    x, sigma, labels = inputs()
    with torch.no_grad():
        assert torch.equal(velocity(folder), model(x, sigma, labels))


def test_half_precision_becomes_single(tmp_path):
    state = {name: value.half() for name, value in published().state_dict().items()}
    folder = converted(saved(state, tmp_path / "teacher.pth"), {**GIVEN, "sample_size": SIZE, "time_scale": 1.0})
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert all(
        value.dtype == torch.float32 and torch.equal(value, state[name].float()) for name, value in tensors.items()
    )


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1152, 16)])
def test_heads_come_from_the_known_widths(width, heads):
    tensors = {
        "pos_embed.proj.weight": torch.empty(width, 4, 2, 2, device="meta"),
        "emb.class_embedder.embedding_table.weight": torch.empty(1001, width, device="meta"),
        "transformer_blocks.0.ff.net.0.proj.weight": torch.empty(4 * width, width, device="meta"),
    }
    config = dit_checkpoints.architecture(tensors, {"time_scale": 1.0})
    assert (config["num_attention_heads"], config["attention_head_dim"], config["sample_size"]) == (
        heads,
        width // heads,
        32,
    )
    assert (config["num_classes"], config["mlp_ratio"], config["num_layers"]) == (1000, 4.0, 1)


def test_a_checkpoint_is_converted_once(tmp_path, cache, monkeypatch):
    path = saved(sit_weights(), tmp_path / "sit.pt")
    folder = converted(path, GIVEN)
    assert folder.parent == cache == user_cache() / "teachers"
    monkeypatch.setattr(dit_checkpoints, "read_checkpoint", lambda path: pytest.fail("converted again"))
    assert converted(path, GIVEN) == folder


def test_another_file_in_its_place_is_converted_anew(tmp_path):
    path = saved(sit_weights(), tmp_path / "sit.pt")
    before = converted(path, GIVEN)
    saved(sit_weights(seed=1), path)
    os.utime(path, (1, 1))
    assert converted(path, GIVEN) != before
    assert (velocity(converted(path, GIVEN)) - velocity(before)).abs().max() > 1e-2


def test_a_conversion_that_is_cut_short_leaves_nothing(tmp_path, cache, monkeypatch):
    path = saved(sit_weights(), tmp_path / "sit.pt")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dit_checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        converted(path, GIVEN)
    assert [place.name for place in cache.iterdir() if place.is_dir()] == []
    monkeypatch.undo()


def without(*names: str):
    return {name: value for name, value in sit_weights().items() if name not in names}


DAMAGED = {
    "cut short": (lambda path: path.write_bytes(saved(sit_weights(), path).read_bytes()[:5000]), RunError, "damaged"),
    "noise": (lambda path: path.write_bytes(b"not a checkpoint"), RunError, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), RunError, "damaged"),
    "code": (lambda path: torch.save({"weights": print}, path), RunError, "which piflow never runs"),
    "a list": (lambda path: torch.save([torch.zeros(1)], path), UsageError, "holds no state dict"),
    "numbers": (lambda path: torch.save({"a": 1.0}, path), UsageError, "holds no state dict"),
    "another model": (
        lambda path: saved({"layer.weight": torch.zeros(2)}, path),
        UsageError,
        "it starts with layer.weight",
    ),
    "missing": (
        lambda path: saved(without("blocks.1.mlp.fc1.weight", "blocks.1.mlp.fc2.bias"), path),
        UsageError,
        "transformer_blocks.1.ff.net.0.proj.weight is missing; transformer_blocks.1.ff.net.2.bias is missing",
    ),
    "no embeddings": (
        lambda path: saved(without("y_embedder.embedding_table.weight"), path),
        UsageError,
        "embeddings or first block",
    ),
    "unknown": (
        lambda path: saved({**sit_weights(), **{f"blocks.0.attn.q_norm.{n}": torch.zeros(1) for n in range(5)}}, path),
        UsageError,
        (
            "blocks.0.attn.q_norm.0 is unknown; blocks.0.attn.q_norm.1 is unknown; blocks.0.attn.q_norm.2 is unknown"
            " and 2 more"
        ),
    ),
    "shape": (
        lambda path: saved({**sit_weights(), "blocks.0.attn.proj.bias": torch.zeros(3)}, path),
        UsageError,
        "transformer_blocks.0.attn1.to_out.0.bias is (3,), not (16,)",
    ),
    "not finite": (
        lambda path: saved({**sit_weights(), "blocks.0.attn.proj.bias": torch.full((16,), torch.nan)}, path),
        RunError,
        "values that are not finite in transformer_blocks.0.attn1.to_out.0.bias",
    ),
    "positions": (
        lambda path: saved({**sit_weights(), "pos_embed": torch.zeros(1, 16, 16)}, path),
        UsageError,
        "its pos_embed is not SiT's table",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_no_teacher_is_named_in_one_line(tmp_path, case):
    make, kind, message = DAMAGED[case]
    path = tmp_path / "file.pt"
    make(path)
    with pytest.raises(PiflowError) as caught:
        converted(path, GIVEN)
    assert type(caught.value) is kind and message in caught.value.message
    assert caught.value.message.startswith(f"{path}: ") and "\n" not in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "do not tell num_attention_heads"),
        ({**GIVEN, "num_layers": 3, "num_classes": 1000}, "num_layers is 2, not 3; num_classes is 5, not 1000"),
        ({**GIVEN, "time_scale": 1000.0}, "time_scale is 1 for SiT and REPA, not 1000"),
        ({**GIVEN, "sample_size": 16}, "its pos_embed is not SiT's table"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path, given, message):
    with pytest.raises(UsageError, match=message):
        converted(saved(sit_weights(), tmp_path / "sit.pt"), given)


def test_a_published_teacher_must_be_told_how_it_is_fed_the_time(tmp_path):
    with pytest.raises(UsageError, match="the tensors do not tell time_scale") as caught:
        converted(saved(published().state_dict(), tmp_path / "teacher.pth"), GIVEN)
    assert "teacher.config=DIR" in caught.value.hint


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "nowhere.pt")


def test_the_config_beside_a_checkpoint_is_read_unless_the_preset_has_one(tmp_path):
    family, path = family_of("dit"), saved(sit_weights(), tmp_path / "sit.pt")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "DiT", "num_attention_heads": 4}))
    told = tmp_path / "told"
    told.mkdir()
    (told / "config.json").write_text(json.dumps(GIVEN))
    for config, heads in ((None, 4), (told, HEADS)):
        assert family.load(family.prepare(path, config)).config.num_attention_heads == heads


def test_a_folder_without_a_config_is_told_by_that_of_the_preset(tmp_path):
    family, weights, told = family_of("dit"), tmp_path / "weights", tmp_path / "told"
    published().save_pretrained(weights)
    shutil.move(weights / "config.json", tmp_path / "config.json")
    told.mkdir()
    (told / "config.json").write_text((tmp_path / "config.json").read_text())
    found = family.load(family.prepare(weights, told)).state_dict()
    assert found.keys() == published().state_dict().keys()
    (told / "config.json").write_text(json.dumps({"_class_name": "DiT", "num_attention_heads": 2 * HEADS}))
    shutil.move(tmp_path / "config.json", weights / "config.json")
    assert family.prepare(weights, told) == weights


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "describes a FluxTransformer2DModel, and the preset wants a DiT"),
        ({"_class_name": "DiT", "rope": True}, "describes a DiT with rope"),
        ([], "no config of a model"),
        (None, "no config of a model"),
    ],
)
def test_a_folder_of_another_architecture_is_refused(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message):
        family_of("dit").prepare(tmp_path, None)
