from __future__ import annotations

import json
import math
from inspect import signature
from pathlib import Path

import pytest

from piflow_cli.sampling.request import SampleRequest


def test_sample_without_options(cli, requests):
    assert cli("sample", "runs/digits").out == "images  64\n"
    assert requests == [SampleRequest("runs/digits", output=Path("samples/digits"))]


def test_the_library_asks_for_just_that():
    from piflow_cli.sampling.sample import sample

    assert list(signature(sample).parameters) == ["request", "console"]


def test_sample_hands_over_what_was_asked(cli, requests):
    arguments = (
        "--teacher digits --base b --vae v --labels 3,5-6 --prompts p.txt --text-column c --height 64 --width 96 --lora"
        " a.safetensors --lora b:0.5 --base-precision fp32 --offload group --compile --guidance 2.5 --seeds 7,0-1"
        " --steps 128 --shift 2 --substeps 32 --temperature 0.3 --stochastic inf --output o --overwrite --no-grid"
        " --no-metadata --device cpu --batch-size 5 --json"
    )
    outcome = cli("sample", *arguments.split())
    assert json.loads(outcome.out) == {"images": 3}
    asked = SampleRequest(
        teacher="digits", base="b", vae="v", labels=(3, 5, 6), prompts_from="p.txt", text_column="c", height=64,
        width=96, loras=(("a.safetensors", 1.0), ("b", 0.5)), base_precision="fp32", offload="group", compile=True,
        seeds=(7, 0, 1), steps=128, shift=2.0, substeps=32, temperature=0.3, stochastic=math.inf, guidance=2.5,
        output=Path("o"), overwrite=True, grid=False, metadata=False, device="cpu", batch_size=5,
    )  # fmt: skip
    assert requests == [asked]


@pytest.mark.parametrize("prompt", ["a red fox " * 300, "/imagine a red fox", "a red/orange fox"])
def test_a_prompt_beside_a_teacher_is_no_path(cli, requests, prompt):
    """And may be longer than any name of a file."""
    cli("sample", "--teacher", "flux-dev", prompt)
    assert (requests[0].student, requests[0].prompts) == (None, (prompt,))


@pytest.mark.parametrize("prompt", ["a red fox", "a red fox " * 300])
def test_a_prompt_without_a_model_is_told_what_it_needs(cli, requests, prompt):
    outcome = cli("sample", prompt)
    assert outcome.code == 2 and "there is no student at a red fox" in outcome.err and not requests
    assert 'piflow sample RUN "a red fox"' in outcome.err and "--teacher NAME" in outcome.err


@pytest.mark.parametrize("named", ["my runs/digits", "my runs/digit", "my runs/digit/", "~/my runs/digit"])
def test_a_path_with_a_space_is_no_prompt(cli, requests, tmp_path, monkeypatch, named):
    """That of a student which is not there too, where its folder is."""
    (tmp_path / "my runs" / "digits").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli("sample", named).code == cli("sample", named, "--teacher", "flux-dev").code == 0
    assert [(request.student, request.prompts) for request in requests] == [(named, ())] * 2


def test_a_teacher_with_a_dot_in_its_name_keeps_all_of_it(cli, requests, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.v2.yaml").write_text("extends: digits\nname: mine\n")
    for teacher in ("wan21-1.3b", "mine.v2.yaml"):
        assert cli("sample", "--teacher", teacher, "a red fox").code == 0
    assert [str(request.output) for request in requests] == ["samples/wan21-1.3b-teacher", "samples/mine.v2-teacher"]


def test_num_images_counts_seeds_from_zero(cli, requests):
    cli("sample", "--teacher", "digits", "--num-images", "3", "--temperature", "auto")
    assert (requests[0].seeds, requests[0].temperature, requests[0].output) == (
        (0, 1, 2),
        "auto",
        Path("samples/digits-teacher"),
    )
