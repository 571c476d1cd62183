"""A plan of what the run refuses is refused, with the same line."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from zoo import ZOO, zoo_preset

CHECKPOINTED = "--set optimisation.gradient_checkpointing=true --offload-base"
# Options that no preset makes right on a machine without a GPU and trackers, and the line that they get.
OF_TEXT = {
    "--base-precision int8": "a student cannot be trained on a base in int8",
    "--base-precision nf4": "a base in nf4 needs ",
    CHECKPOINTED: "nothing to offload the base from",
    f"{CHECKPOINTED} --base-precision fp8": "nothing to offload the base from",
    "--offload-text-encoder": "nothing to offload the text encoder from",
    "--cache {prompts}/cache": "is a file",
}
OF_ALL = {
    "--device cuda": "--device cuda: ",
    "--device cuda:7": "--device cuda:7: ",
    "--device mps": "float64, which MPS lacks",
    "--num-processes 2 --device cuda": "--device cuda: ",
    "--set optimisation.device_batch_size=3": "is no multiple of",
    "--set output.tracker=wandb": "the tracker wandb is not installed",
    "--tracker tensorboard": "the tracker tensorboard is not installed",
    "--set teacher.family=unet": "unknown model family 'unet'",
    "--base nowhere": "there is nothing at nowhere",
    "--data nowhere.safetensors": "there are no pictures at nowhere.safetensors",
    "--output {file}": "is a file",
    "--output {full}": "is not empty and holds no run",
}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, and without packages that nobody must have."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = importlib.util.find_spec
    lacking = ("wandb", "tensorboard", "bitsandbytes")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in lacking else found(name, *more)
    )


def refused_alike(cli, message: str, *arguments: str) -> None:
    run, plan = cli("distill", *arguments, "--quiet"), cli("distill", *arguments, "--quiet", "--dry-run")
    assert (plan.code, plan.err) == (run.code, run.err) and (run.code, run.out, plan.out) == (2, "", "")
    assert message in run.err


@pytest.mark.parametrize("options", OF_ALL)
def test_a_plan_is_refused_as_the_run_is(cli, bare, tiny_teacher, tmp_path, options):
    (tmp_path / "file").write_text("words")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("words")
    given = options.format(file=tmp_path / "file", full=tmp_path / "full").split()
    output = [] if "--output" in options else ["--output", str(tmp_path / "out")]
    refused_alike(cli, OF_ALL[options], "--teacher", str(tiny_teacher), *output, *given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", OF_TEXT)
def test_a_plan_of_a_text_student_is_refused_as_the_run_is(cli, bare, tmp_path, options):
    (tmp_path / "p.txt").write_text("a\n")
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    data = ["--prompts", str(tmp_path / "p.txt"), "--set", "data.resolution=64", "--device", "cpu"]
    output = ["--output", str(tmp_path / "out")]
    refused_alike(
        cli,
        OF_TEXT[options],
        "--teacher",
        str(path),
        *data,
        *output,
        *options.format(prompts=tmp_path / "p.txt").split(),
    )


def test_a_plan_for_a_folder_of_another_run_is_refused_as_the_run_is(cli, tiny_teacher, tmp_path):
    shared = ["--teacher", str(tiny_teacher), "--output", str(tmp_path / "out")]
    assert cli("distill", *shared, "--iterations", "1", "--quiet").code == 0
    refused_alike(cli, "belongs to another configuration: policy.nfe was 1, is 2", *shared, "--nfe", "2")
    again = cli("distill", *shared, "--nfe", "2", "--no-resume", "--dry-run", "--quiet")
    assert (again.code, again.err) == (0, "")
