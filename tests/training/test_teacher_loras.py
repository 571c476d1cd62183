"""LoRAs in a teacher: everything that comes of a base and its LoRAs is what comes of a base that has them fused."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from helpers import seeded
from PIL import Image
from process_runs import losses, trained
from safetensors.torch import load_file, save_file
from tiny_pipeline import whole_pipeline
from tiny_presets import texts
from torch import Tensor
from zoo import ZOO, zoo_preset

from piflow_cli.students.adapters import read_facts
from piflow_cli.students.fused_loras import from_json, to_json
from piflow_cli.students.locate import locate_student
from piflow_cli.students.open import find_student, open_student
from piflow_cli.students.shared_base import root
from piflow_cli.students.teacher_loras import kept_loras
from piflow_cli.system.files import files_digest

MODULES = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_k", "proj_out")
RANK, ALPHA = 2, 3.0
WEIGHTS = "diffusion_pytorch_model.safetensors"
SAMPLE = ["a red fox", "--seeds", "0", "--height", "32", "--width", "32", "--device", "cpu"]


def lora(path: Path, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """A LoRA for the tiny FLUX, saved at ``path``; returns the factors (down, up) of each module."""
    path.parent.mkdir(exist_ok=True)
    model, generator, factors = ZOO["flux"].build(), seeded(seed), {}
    for module in MODULES:
        layer = model.get_submodule(module)
        factors[module] = (
            torch.randn(RANK, layer.in_features, generator=generator),
            torch.randn(layer.out_features, RANK, generator=generator),
        )
    tensors = {f"transformer.{module}.alpha": torch.tensor(ALPHA) for module in MODULES}
    for part, place in (("A", 0), ("B", 1)):
        tensors |= {f"transformer.{module}.lora_{part}.weight": pair[place] for module, pair in factors.items()}
    save_file(tensors, path)
    return factors


def teacher(folder: Path) -> Path:
    """The preset of the tiny FLUX on a whole pipeline, in ``folder``."""
    folder.mkdir()
    path, _ = zoo_preset(ZOO["flux"], folder)
    shutil.rmtree(folder / "base")
    whole_pipeline(folder / "base")
    return path


@pytest.fixture
def both(tmp_path) -> tuple[list[str], list[str]]:
    """The options of the same distillation: of a base with two LoRAs, and of a base whose weights have them."""
    one, other = teacher(tmp_path / "one"), teacher(tmp_path / "other")
    files = {tmp_path / "a" / "style.safetensors": 0.5, tmp_path / "b" / "style.safetensors": -0.25}
    weights = tmp_path / "other" / "base" / "transformer" / WEIGHTS
    tensors = load_file(weights)
    for seed, (path, scale) in enumerate(files.items()):
        for module, (down, up) in lora(path, seed).items():
            tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + scale * ALPHA / RANK * (up @ down)
    save_file(tensors, weights, {"format": "pt"})
    given = [word for path, scale in files.items() for word in ("--teacher-lora", f"{path}:{scale}")]
    options = [*texts(tmp_path, "cat", "dog"), "--quiet", "--device", "cpu"]
    return ["distill", "--teacher", str(one), *given, *options], ["distill", "--teacher", str(other), *options]


def pixels(folder: Path) -> np.ndarray:
    (path,) = (file for file in folder.glob("*.png") if file.name != "grid.png")
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_a_run_is_that_on_a_base_with_fused_weights(cli, both, text_encoders, tmp_path, precision) -> None:
    """Bit for bit, in every precision: losses, all that is trained, the base, its pictures, and an export."""
    runs = [tmp_path / "fused-here", tmp_path / "fused-before"]
    for command, run in zip(both, runs):
        outcome = cli(*command, "--base-precision", precision, "--output", str(run))
        assert outcome.code == 0, outcome.err
    assert losses(runs[0]) == losses(runs[1])
    left, right = (trained(run) for run in runs)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    students = [open_student(run, precision="bf16" if precision == "fp8" else precision) for run in runs]
    for (name, value), (_, other) in zip(*(root(one.model).state_dict().items() for one in students), strict=True):
        assert torch.equal(value, other), name
    if precision == "fp8":
        return
    made = [tmp_path / "pictures" / run.name for run in runs]
    for run, folder in zip(runs, made):
        outcome = cli("sample", str(run), *SAMPLE, "--quiet", "--output", str(folder))
        assert outcome.code == 0, outcome.err
    assert (pixels(made[0]) == pixels(made[1])).all()
    asked = [str(tmp_path / "prompts.txt"), "--metrics", "alignment,trajectory", "--fine-steps", "2", *SAMPLE[3:]]
    rows = []
    for run in runs:
        report = ["--json", "--quiet", "--output", str(tmp_path / "reports" / run.name)]
        outcome = cli("eval", str(run), "--num-images", "2", "--prompts", *asked, *report)
        assert outcome.code == 0, outcome.err
        rows.append([(row["metric"], row["value"]) for row in json.loads(outcome.out)["results"]])
    assert rows[0] == rows[1] and rows[0]
    exported = [tmp_path / "exports" / run.name for run in runs]
    for run, folder in zip(runs, exported):
        assert cli("export", str(run), "--format", "pipeline", "--quiet", "--output", str(folder)).code == 0
    whole = [load_file(folder / "transformer" / WEIGHTS) for folder in exported]
    assert whole[0].keys() == whole[1].keys()
    assert all(torch.equal(whole[0][name], whole[1][name]) for name in whole[0])


@pytest.fixture
def run(cli, both, text_encoders, tmp_path) -> Path:
    assert cli(*both[0], "--iterations", "1", "--output", str(tmp_path / "run")).code == 0
    return tmp_path / "run"


def test_a_student_says_what_is_in_its_base_and_brings_it_along(cli, run, tmp_path) -> None:
    """Facts and card have names, scales and SHA-256, and no folder of this machine; the files go with an adapter."""
    told = read_facts(locate_student(run)).teacher_loras
    assert [(one.name, one.scale) for one in told] == [("style.safetensors", 0.5), ("style.safetensors", -0.25)]
    assert [one.sha256 for one in told] == [files_digest([tmp_path / n / "style.safetensors"]) for n in ("a", "b")]
    assert from_json(to_json(told)) == told
    for name in ("a", "b"):
        shutil.rmtree(tmp_path / name)
    out = tmp_path / "out"
    outcome = cli("export", str(run), "--format", "adapter", "--output", str(out))
    assert outcome.code == 0, outcome.err
    assert files_digest([out / "teacher_loras" / "2" / "style.safetensors"]) == told[1].sha256
    card = (out / "README.md").read_text()
    assert f"style.safetensors x 0.5 (SHA-256 {told[0].sha256[:12]})" in card and str(tmp_path) not in card
    assert read_facts(locate_student(out)).teacher_loras == told
    outcome = cli("export", str(run), "--format", "pipeline", "--no-base", "--output", str(tmp_path / "none"))
    assert outcome.code == 2 and "has LoRAs fused into it" in outcome.err


@pytest.mark.parametrize("fault", ["missing", "changed"])
@pytest.mark.parametrize("command", [["sample", *SAMPLE], ["inspect-policy", "a", "--seeds", "0"], ["export"]])
def test_a_student_whose_lora_is_not_the_one_is_refused(cli, run, tmp_path, command, fault) -> None:
    file = run / "adapter" / "teacher_loras" / "1" / "style.safetensors"
    if fault == "missing":
        file.unlink()
    else:
        lora(file, 7)
    name, *options = command
    options += ["--format", "adapter"] if name == "export" else []
    outcome = cli(name, str(run), *options, "--output", str(tmp_path / "out"))
    assert outcome.code == 1 and str(file) in outcome.err and len(outcome.err.splitlines()) == 2, outcome.err


def test_a_run_goes_on_with_the_loras_that_it_has(cli, both, run, tmp_path) -> None:
    command = [*both[0], "--output", str(run)]
    place = command.index("--teacher-lora")
    outcome = cli(*command[:place], *command[place + 2 :], "--iterations", "2")
    assert outcome.code == 2 and "teacher.loras was [" in outcome.err
    whole = (tmp_path / "a" / "style.safetensors").read_bytes()
    lora(tmp_path / "a" / "style.safetensors", 9)
    outcome = cli(*command, "--iterations", "2")
    assert outcome.code == 2 and "the LoRAs are no longer those that" in outcome.err
    # Another run may begin with its weights.
    forked = [word for word in both[0] if word != "--quiet"] + ["--fork", str(run), "--output", str(tmp_path / "new")]
    outcome = cli(*forked, "--iterations", "1")
    assert outcome.code == 0 and outcome.err.count("on a base with other LoRAs: style.safetensors x 0.5 (SHA-256") == 1
    (tmp_path / "a" / "style.safetensors").write_bytes(whole)
    assert cli(*command, "--iterations", "2").code == 0


def test_a_file_that_goes_while_a_run_trains_is_kept_from_its_last_student(cli, both, run, tmp_path, monkeypatch):
    from piflow_cli.training import run as training

    step = training.train_step

    def step_without_a_file(session) -> None:
        step(session)
        (tmp_path / "a" / "style.safetensors").unlink(missing_ok=True)

    monkeypatch.setattr(training, "train_step", step_without_a_file)
    before = read_facts(locate_student(run))
    assert cli(*both[0], "--output", str(run), "--iterations", "2").code == 0
    after = read_facts(locate_student(run))
    assert (after.teacher_loras, after.iterations) == (before.teacher_loras, 2)


def test_the_teacher_of_a_preset_with_loras_has_them(cli, both, text_encoders, tmp_path) -> None:
    """Sampled by its settings, as the teacher of a base that has them fused."""
    made = []
    for number, command in enumerate(both):
        settings, folder = tmp_path / f"{number}.yaml", tmp_path / f"teacher-{number}"
        settings.write_text(cli(*command, "--print-config").out)
        outcome = cli("sample", "--teacher", str(settings), *SAMPLE, "--steps", "2", "--quiet", "--output", str(folder))
        assert outcome.code == 0, outcome.err
        made.append(pixels(folder))
    assert (made[0] == made[1]).all()


def test_the_plan_names_them(cli, both, tmp_path) -> None:
    plan = json.loads(cli(*both[0], "--dry-run", "--json", "--output", str(tmp_path / "run")).out)
    assert plan["teacher"]["loras"].endswith(f"{tmp_path / 'b' / 'style.safetensors'}:-0.25")
    path = tmp_path / "a" / "style.safetensors"
    plan = json.loads(cli(*both[1], "--set", f"teacher.loras=[{path}]", "--dry-run", "--json").out)
    assert plan["teacher"]["loras"] == f"{path}:1"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.safetensors", "there is no LoRA at"),
        ("{pickle}", "LoRAs are read from .safetensors alone"),
        ("{lora}:half", "has the scale 'half', which is no number"),
        ("{lora}:inf", "has the scale 'inf', which is no number"),
        ("{lora}:2000", "has a scale that must be at most 1,000"),
        (":0.5", "names no file"),
        ("{other}", "is a LoRA for another model"),
        ("{unknown}", "has tensors that nothing here takes"),
        ("{folder}", "holds 2 .safetensors files"),
    ],
)
def test_what_is_no_lora_of_the_teacher_is_refused_before_anything_is_written(cli, both, tmp_path, given, message):
    files = {name: tmp_path / f"{name}.safetensors" for name in ("lora", "other", "unknown")}
    files |= {"pickle": tmp_path / "style.pt", "folder": tmp_path / "folder"}
    files["pickle"].write_bytes(b"PK")
    lora(files["lora"], 0)
    whole = load_file(files["lora"])
    save_file({name.replace("single_transformer_blocks.1", "layers.7"): v for name, v in whole.items()}, files["other"])
    save_file({**whole, "strange": torch.ones(1)}, files["unknown"])
    for name in ("one", "two"):
        lora(files["folder"] / f"{name}.safetensors", 0)
    for ending in ([], ["--dry-run"]):
        command = [*both[1], "--teacher-lora", given.format(**files), *ending]
        outcome = cli(*command, "--output", str(tmp_path / "run"))
        assert outcome.code == 2 and message in outcome.err, outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--set", "adapter=null"], "needs adapters"),
        (["--base-precision", "nf4"], "excludes adapter.base_precision nf4"),
        (["--teacher-lora", "a.safetensors:x"], "→ type --teacher-lora style.safetensors:0.8"),
        (["--set", "teacher.loras=a.safetensors"], "must be a list of PATH or PATH:SCALE"),
    ],
)
def test_where_nothing_can_be_fused_the_settings_say_so(cli, both, tmp_path, settings, message) -> None:
    command = both["safetensors" in settings[-1]]
    outcome = cli(*command, *settings, "--dry-run", "--output", str(tmp_path / "run"))
    assert outcome.code == 2 and message in outcome.err, outcome.err


def test_a_teacher_of_classes_takes_none(cli, tmp_path) -> None:
    lora(tmp_path / "style.safetensors", 0)
    outcome = cli("distill", "--teacher", "digits", "--teacher-lora", str(tmp_path / "style.safetensors"), "--dry-run")
    assert outcome.code == 2 and "this one is told a class\n  → leave --teacher-lora out" in outcome.err


def test_an_export_that_diffusers_reads_by_itself_has_no_teacher_here(cli, both, text_encoders, tmp_path) -> None:
    """Its weights have the LoRAs in them; the teacher that they were fused into is not the base that it names."""
    dx = ["--policy", "dx", "--components", "4", "--nfe", "2", "--set", "imitation.dropout=0"]
    assert cli(*both[0], *dx, "--iterations", "1", "--output", str(tmp_path / "run")).code == 0
    outcome = cli(
        "export", str(tmp_path / "run"), "--format", "piflow-scheduler", "--quiet", "--output", str(tmp_path / "out")
    )
    assert outcome.code == 0, outcome.err
    options = ["--prompts", str(tmp_path / "prompts.txt"), "--metrics", "alignment", "--num-images", "2", *SAMPLE[3:]]
    options += ["--teacher", str(tmp_path / "one" / "tiny.yaml"), "--base", str(tmp_path / "one" / "base")]
    options += ["--output", str(tmp_path / "report")]
    outcome = cli("eval", str(tmp_path / "out" / "transformer"), *options)
    assert outcome.code == 2 and "which are not beside this student" in outcome.err, outcome.err


def test_what_a_student_is_opened_with_is_fetched_from_the_hub(run, tmp_path, monkeypatch) -> None:
    def snapshot(repository: str, allow_patterns: list[str], **given: object) -> str:
        folder = tmp_path / "hub"
        for file in (run / "adapter").rglob("*"):
            name = file.relative_to(run / "adapter").as_posix()
            if file.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    found = find_student("owner/name")
    kept = kept_loras(found.folder, found.facts.teacher_loras)
    assert [lora.file for lora in kept] == [
        tmp_path / "hub" / "teacher_loras" / number / "style.safetensors" for number in ("1", "2")
    ]
