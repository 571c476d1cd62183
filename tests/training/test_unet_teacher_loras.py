"""LoRAs in a U-Net: distilled, sampled and exported as a base that has them fused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_cases import FORMS, UNET, factors, product, written
from process_runs import losses, trained
from safetensors.torch import load_file, save_file
from tiny_presets import texts
from zoo import ZOO, zoo_preset

from piflow_cli.students.adapters import read_facts
from piflow_cli.students.locate import locate_student
from piflow_cli.students.open import open_student
from piflow_cli.students.shared_base import root

ROW = ZOO["sd15"]
SCALE = 0.5
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
SAMPLE = ["a red fox", "--seeds", "0", "--height", "64", "--width", "64", "--device", "cpu"]


@pytest.fixture
def runs(cli, text_encoders, tmp_path) -> tuple[Path, Path]:
    """Students of a base with a LoRA, and of one whose weights have it."""
    style = written(tmp_path / "style.safetensors", ROW.build(), UNET, FORMS["kohya"], alphas=False)
    commands = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        preset, _ = zoo_preset(ROW, tmp_path / name)
        more = ["--teacher-lora", f"{style}:{SCALE}"] if name == "one" else []
        commands.append(["distill", "--teacher", str(preset), *more, *texts(tmp_path, "cat", "dog"), "--quiet"])
    file = tmp_path / "other" / "base" / WEIGHTS
    weights = load_file(file)
    for module, rank in zip(UNET, (2, 4, 3)):
        weights[f"{module}.weight"] = weights[f"{module}.weight"] + SCALE * product(*factors(ROW.build(), module, rank))
    save_file(weights, file, {"format": "pt"})
    made = tmp_path / "fused-here", tmp_path / "fused-before"
    for command, run in zip(commands, made):
        outcome = cli(*command, "--iterations", "1", "--device", "cpu", "--output", str(run))
        assert outcome.code == 0, outcome.err
    return made


def test_a_student_of_a_unet_is_that_on_a_base_with_fused_weights(cli, runs, tmp_path) -> None:
    here, before = runs
    assert losses(here) == pytest.approx(losses(before), rel=1e-4)
    left, right = trained(here), trained(before)
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-3, atol=1e-4, msg=name)
    bases = [root(open_student(run, precision="fp32").model).state_dict() for run in runs]
    for name, value in bases[0].items():
        torch.testing.assert_close(value, bases[1][name], rtol=1e-3, atol=1e-4, msg=name)
    (told,) = read_facts(locate_student(here)).teacher_loras
    assert (told.name, told.scale) == ("style.safetensors", SCALE)
    style = str(here.parent / "style.safetensors")
    for more in ([], ["--lora", f"{style}:0.3"]):
        outcome = cli("sample", str(here), *SAMPLE, *more, "--quiet", "--output", str(tmp_path / f"drawn-{len(more)}"))
        assert outcome.code == 0, outcome.err
    plain, styled = (next((tmp_path / f"drawn-{n}").glob("0*.png")).read_bytes() for n in (0, 2))
    assert plain != styled


@pytest.mark.parametrize("kind", ["adapter", "merged", "pipeline"])
def test_exports_have_it_in_their_weights_or_beside_them(cli, runs, tmp_path, kind) -> None:
    out = tmp_path / "out"
    outcome = cli("export", str(runs[0]), "--format", kind, "--quiet", "--output", str(out))
    assert outcome.code == 0, outcome.err
    assert f"style.safetensors x {SCALE}" in (out / "README.md").read_text()
    if kind == "adapter":
        assert (out / "teacher_loras" / "1" / "style.safetensors").is_file()
        return
    (file,) = out.rglob(WEIGHTS.name) if kind == "merged" else [out / WEIGHTS]
    weights, fused = load_file(file), load_file(runs[1].parent / "other" / "base" / WEIGHTS)
    torch.testing.assert_close(weights[f"{UNET[2]}.weight"], fused[f"{UNET[2]}.weight"], rtol=1e-4, atol=1e-4)
