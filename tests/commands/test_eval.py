from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import fake_module, nothing_refused

from piflow_cli.evaluation.request import EvalRequest

DEFAULTS = {
    "students": ("runs/digits",),
    "images": None,
    "reference": None,
    "metrics": None,
    "protocol": None,
    "extractors": (),
    "inception_weights": None,
    "trust_weights": False,
    "clip": None,
    "num_images": None,
    "seeds": None,
    "labels": None,
    "prompts_from": None,
    "text_column": None,
    "height": None,
    "width": None,
    "frames": None,
    "steps": (),
    "substeps": None,
    "temperature": None,
    "teacher_steps": (),
    "fine_steps": None,
    "teacher": None,
    "base": None,
    "subfolder": None,
    "batch_size": None,
    "cache": None,
    "save_images": False,
    "save_statistics": None,
    "output": Path("evals/digits"),
    "overwrite": False,
    "device": "auto",
    "limits": (),
}


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[EvalRequest]:
    """What `piflow eval` asks of the library, in place of its answer."""
    asked: list[EvalRequest] = []

    def evaluate(request, console):
        asked.append(request)
        return {"results": []}, "a table"

    fake_module(monkeypatch, "evaluation.run", evaluate=evaluate)
    nothing_refused(monkeypatch, "evaluation")
    return asked


def test_eval_without_options(cli, evaluations) -> None:
    assert cli("eval", "runs/digits").out == "a table\n"
    assert vars(evaluations[0]) == DEFAULTS


def test_eval_hands_over_what_was_asked(cli, evaluations) -> None:
    arguments = (
        "a --compare b --reference r --metrics kid,fid --extractor pixels --extractor inception --inception-weights"
        " w.pt --trust-weights --clip c --full --seeds 0-2 --labels 1,2 --prompts p.txt --text-column c --height 64"
        " --width 96 --frames 9 --steps 1,2 --substeps 32 --temperature 0.3 --teacher-steps 4 --fine-steps 16"
        " --teacher digits --base b --subfolder s --batch-size 5 --cache k --save-images --save-statistics"
        " s.safetensors --output o --overwrite --device cpu --json"
    )
    assert json.loads(cli("eval", *arguments.split()).out) == {"results": []}
    expected = (
        ("a", "b"),
        None,
        "r",
        ("fid", "kid"),
        "full",
        ("pixels", "inception"),
        Path("w.pt"),
        True,
        "c",
        None,
        (0, 1, 2),
        (1, 2),
        "p.txt",
        "c",
    )
    expected += (
        64,
        96,
        9,
        (1, 2),
        32,
        0.3,
        (4,),
        16,
        "digits",
        "b",
        "s",
        5,
        Path("k"),
        True,
        Path("s.safetensors"),
        Path("o"),
        True,
        "cpu",
        (),
    )
    assert tuple(vars(evaluations[0]).values()) == expected


def test_several_students_stand_side_by_side(cli, evaluations) -> None:
    cli("eval", "runs/a", "runs/b", "--compare", "runs/c", "--num-images", "7", "--quick")
    request = evaluations[0]
    assert (request.students, request.num_images, request.protocol) == (("runs/a", "runs/b", "runs/c"), 7, "quick")
    assert request.output == Path("evals/a")


def test_a_folder_of_pictures_names_its_report(cli, evaluations) -> None:
    cli("eval", "--images", "some/pictures", "--reference", "others")
    assert evaluations[0].images == Path("some/pictures") and evaluations[0].output == Path("evals/pictures")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick", "--full"], "exclude each other"),
        (["--metrics", "fud"], "did you mean fid?"),
        (["--steps", "0"], "no evaluation makes no picture"),
        (["--teacher-steps", "0-2"], "no evaluation makes no picture"),
        (["--teacher-steps", "4-1"], "runs backwards"),
        (["--temperature", "2"], "--temperature"),
        (["--num-images", "0"], "--num-images"),
        (["--fine-steps", "0"], "--fine-steps"),
        (["--batch-size", "0"], "--batch-size"),
    ],
)
def test_faults_of_the_command_line(cli, evaluations, arguments: list[str], message: str) -> None:
    outcome = cli("eval", "runs/digits", *arguments)
    assert outcome.code == 2 and message in outcome.err and "→" in outcome.err
    assert not evaluations


def test_a_number_beyond_its_limit_ends_with_1_after_the_report(cli, tiny_run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--num-images", "4", "--fine-steps", "2", "--metrics", "MSE", "--cache", "c"]
    line = ["eval", str(tiny_run), *small, "--json"]
    held = cli(*line, "--output", "held", "--fail-above", "mse=1e9", "--fail-below", "psnr=-1e9")
    assert (held.code, held.err) == (0, "")
    broken = cli(*line, "--output", "broken", "--fail-above", "mse=0")
    assert broken.code == 1 and json.loads(broken.out)["results"] and (tmp_path / "broken" / "report.json").is_file()
    said = json.loads(broken.err)
    assert said["error"].startswith("mse of tiny, 2 NFE is ") and said["error"].endswith(", above 0")
    assert cli(*line, "--fail-above", "kid=1").code == 2
