"""LoRAs fused into a base: the weights that peft merges, and the files that are kept beside a student."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import seeded
from lora_cases import FORMS, MODULES, every_lora_family, written
from safetensors.torch import load_file, save_file
from zoo import ZOO, Row

from piflow_cli.errors import RunError
from piflow_cli.students.fused_loras import FusedLora, from_json
from piflow_cli.students.lora_files import PEFT_CONFIG, PEFT_WEIGHTS
from piflow_cli.students.loras import add_loras
from piflow_cli.students.teacher_loras import TeacherLora, fuse, keep_loras, kept_loras, teacher_loras
from piflow_cli.teachers import family_of

SCALES = (0.5, -2.0)


def saved(row: Row, folder: Path) -> torch.nn.Module:
    model = row.build()
    model.save_pretrained(folder / "transformer")
    return model


@every_lora_family
@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_fused_weights_are_those_that_peft_merges(row: Row, kind: str, tmp_path) -> None:
    """Of two LoRAs, one after the other."""
    model, modules, family = saved(row, tmp_path), MODULES[row.family], family_of(row.family, row.guidance)
    paths = [written(tmp_path / f"{number}.safetensors", model, modules, FORMS["peft"]) for number in (0, 1)]
    if kind == "DoRA":
        for path in paths:
            tensors = load_file(path)
            for module in modules:
                rows = len(model.get_submodule(module).weight)
                name = f"base_model.model.{module}.lora_magnitude_vector"
                tensors[name] = torch.rand(rows, generator=seeded(rows)) + 0.5
            save_file(tensors, path)
    texts = [f"{path}:{scale}" for path, scale in zip(paths, SCALES)]
    merged = row.build()
    for path, scale in zip(paths, SCALES):
        # One at a time: several DoRAs at once are scaled by norms of the base without the others.
        add_loras(merged, [], family, [(str(path), scale)])
        for module in modules:
            layer = merged.get_submodule(module)
            layer.merge()
            merged.set_submodule(module, layer.base_layer)
        merged.peft_config.clear()
        merged._hf_peft_config_loaded = False
    fuse(model, family, tmp_path, teacher_loras(texts))
    for (name, value), (_, other) in zip(model.state_dict().items(), merged.state_dict().items(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4, msg=name)
    assert not torch.equal(model.get_submodule(modules[0]).weight, row.build().get_submodule(modules[0]).weight)


def test_a_base_in_bfloat16_is_rounded_once(tmp_path) -> None:
    """From the float32 values of its files, and not from the rounded ones that it is held in."""
    row, modules = ZOO["flux"], MODULES["flux"]
    exact = saved(row, tmp_path)
    family = family_of(row.family, row.guidance)
    loras = teacher_loras([str(written(tmp_path / "style.safetensors", exact, modules, FORMS["diffusers"]))])
    narrow = family.load(tmp_path, torch.bfloat16)
    fuse(exact, family, tmp_path, loras)
    fuse(narrow, family, tmp_path, loras)
    for module in modules:
        assert torch.equal(exact.get_submodule(module).weight.bfloat16(), narrow.get_submodule(module).weight)


def test_a_scale_beyond_the_range_of_the_base_is_refused(tmp_path) -> None:
    row, family = ZOO["flux"], family_of("flux", 3.5)
    model = saved(row, tmp_path)
    path = written(tmp_path / "style.safetensors", model, MODULES["flux"], FORMS["diffusers"])
    save_file({name: value * 1e25 for name, value in load_file(path).items()}, path)
    with pytest.raises(RunError, match="values that are not finite with style.safetensors"):
        fuse(model, family, tmp_path, teacher_loras([str(path)]))


def test_the_scales_beside_a_file_of_peft_are_kept_too(tmp_path) -> None:
    """Its adapter_config.json counts in the digest, and a change of it is noticed."""
    row, modules = ZOO["flux"], MODULES["flux"]
    (tmp_path / "style").mkdir()
    written(tmp_path / "style" / PEFT_WEIGHTS, row.build(), modules, FORMS["peft"], alphas=False)
    (tmp_path / "style" / PEFT_CONFIG).write_text(json.dumps({"lora_alpha": 7.0}))
    loras = teacher_loras([str(tmp_path / "style")])
    keep_loras(loras, tmp_path / "student", tmp_path / "student")
    told = [lora.told for lora in loras]
    kept = kept_loras(tmp_path / "student", told)
    exact, family = saved(row, tmp_path), family_of(row.family, row.guidance)
    again = row.build()
    fuse(exact, family, tmp_path, loras)
    fuse(again, family, tmp_path, kept)
    assert torch.equal(exact.get_submodule(modules[0]).weight, again.get_submodule(modules[0]).weight)
    kept[0].file.with_name(PEFT_CONFIG).write_text(json.dumps({"lora_alpha": 8.0}))
    with pytest.raises(RunError, match="is not the LoRA that the student was distilled with"):
        kept_loras(tmp_path / "student", told)


def test_a_file_that_is_gone_or_another_is_not_kept(tmp_path) -> None:
    lora = TeacherLora(tmp_path / "style.safetensors", FusedLora("style.safetensors", 1.0, "0" * 64))
    for content in (None, b"another"):
        if content is not None:
            lora.file.write_bytes(content)
        with pytest.raises(RunError, match="is gone, or no longer the LoRA"):
            keep_loras([lora], tmp_path / f"{content}", tmp_path / "before")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[{"name": "a"}]',
        '[{"name": "../a", "scale": 1, "sha256": "%s"}]' % ("0" * 64),
        '[{"name": "a", "scale": "1", "sha256": "%s"}]' % ("0" * 64),
        '[{"name": "a", "scale": NaN, "sha256": "%s"}]' % ("0" * 64),
        '[{"name": "a", "scale": 1, "sha256": "00"}]',
        '[{"name": "a", "scale": 1, "sha256": "%s", "more": 1}]' % ("0" * 64),
    ],
)
def test_facts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_json(text)
