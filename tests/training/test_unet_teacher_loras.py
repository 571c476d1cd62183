"""LoRAs in a U-Net: distilled, sampled and exported as a base that has them fused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_cases import FORMS, RANKS, UNET, factors, product, written
from process_runs import losses, trained
from safetensors.torch import load_file, save_file
from tiny_presets import texts
from tiny_vae import tiny_vae
from zoo import ZOO, zoo_preset

from piflow_cli.students.adapters import read_facts
from piflow_cli.students.locate import locate_student
from piflow_cli.students.open import open_student
from piflow_cli.students.shared_base import root

ROW = ZOO["sd15"]
SCALE = 0.5
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
SAMPLE = ["a red fox", "--seeds", "0", "--height", "64", "--width", "64", "--device", "cpu"]


def distilled(cli, folder: Path, loras: bool) -> Path:
    """A student of a base with a LoRA, or of one whose weights have it."""
    style = written(folder / "style.safetensors", ROW.build(), UNET, FORMS["kohya"], alphas=False)
    (folder / f"{loras}").mkdir()
    preset, _ = zoo_preset(ROW, folder / f"{loras}")
    tiny_vae(ROW.family).save_pretrained(folder / f"{loras}" / "base" / "vae")
    file = folder / f"{loras}" / "base" / WEIGHTS
    if not loras:
        weights = load_file(file)
        for module, rank in zip(UNET, RANKS):
            change = SCALE * product(*factors(ROW.build(), module, rank))
            weights[f"{module}.weight"] = weights[f"{module}.weight"] + change
        save_file(weights, file, {"format": "pt"})
    command = ["distill", "--teacher", str(preset), *texts(folder, "cat", "dog"), "--quiet", "--device", "cpu"]
    more = ["--teacher-lora", f"{style}:{SCALE}"] if loras else []
    outcome = cli(*command, *more, "--output", str(folder / f"run-{loras}"))
    assert outcome.code == 0, outcome.err
    return folder / f"run-{loras}"


def test_a_student_of_a_unet_is_that_on_a_base_with_fused_weights(cli, text_encoders, tmp_path) -> None:
    runs = here, before = [distilled(cli, tmp_path, loras) for loras in (True, False)]
    assert losses(here) == pytest.approx(losses(before), rel=1e-4)
    left, right = trained(here), trained(before)
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-3, atol=1e-4, msg=name)
    bases = [root(open_student(run, precision="fp32").model).state_dict() for run in runs]
    for name, value in bases[0].items():
        torch.testing.assert_close(value, bases[1][name], rtol=1e-3, atol=1e-4, msg=name)
    (told,) = read_facts(locate_student(here)).teacher_loras
    assert (told.name, told.scale) == ("style.safetensors", SCALE)
    style = str(tmp_path / "style.safetensors")
    for more in ([], ["--lora", f"{style}:0.3"]):
        outcome = cli("sample", str(here), *SAMPLE, *more, "--quiet", "--output", str(tmp_path / f"drawn-{len(more)}"))
        assert outcome.code == 0, outcome.err
    plain, styled = (next((tmp_path / f"drawn-{n}").glob("0*.png")).read_bytes() for n in (0, 2))
    assert plain != styled


def test_exports_have_it_in_their_weights_or_beside_them(cli, text_encoders, tmp_path) -> None:
    run = distilled(cli, tmp_path, True)
    name = f"{UNET[2]}.weight"
    fused = ROW.build().state_dict()[name] + SCALE * product(*factors(ROW.build(), UNET[2], RANKS[2]))
    for kind in ("adapter", "merged", "pipeline"):
        out = tmp_path / kind
        outcome = cli("export", str(run), "--format", kind, "--quiet", "--output", str(out))
        assert outcome.code == 0, outcome.err
        assert f"style.safetensors x {SCALE}" in (out / "README.md").read_text()
        if kind == "adapter":
            assert (out / "teacher_loras" / "1" / "style.safetensors").is_file()
        else:
            weights = load_file(out / (WEIGHTS.name if kind == "merged" else WEIGHTS))
            torch.testing.assert_close(weights[name], fused, rtol=1e-2, atol=1e-2)
