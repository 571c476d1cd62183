"""What students are called: by what tells one from another, never by what all of their files are called."""

from __future__ import annotations

import pytest

from piflow_cli.students.naming import student_name, student_names

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("student", "subfolder", "name"),
    [
        ("runs/digits", None, "digits"),
        ("runs/digits/", None, "digits"),
        ("runs/digits/adapter", None, "digits"),
        ("runs/digits", "adapter", "digits"),
        (f"runs/digits/adapter/{WEIGHTS}", None, "digits"),
        (f"runs/digits/{WEIGHTS}.index.json", None, "digits"),
        ("mine.safetensors", None, "mine"),
        ("old.v2/best.pth", None, "best"),
        ("owner/flux.1-dev", None, "flux.1-dev"),
        ("owner/name", "deep/gm_4step", "gm_4step"),
        ("/adapter", None, "adapter"),
    ],
)
def test_a_student_is_called_by_what_tells_it_from_others(student: str, subfolder: str | None, name: str) -> None:
    assert student_name(student, subfolder) == name


def test_two_of_one_name_are_called_by_their_paths() -> None:
    assert student_names(["a/x", "b/x/adapter", "c/y"]) == ["a/x", "b/x/adapter", "y"]


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        (["sample"], "samples"),
        (["eval"], "evals"),
        (["inspect-policy"], "inspection"),
        (["export", "--format", "adapter"], "exports"),
    ],
)
def test_an_output_that_is_a_file_is_refused_before_the_student_is_read(cli, tmp_path, command, folder: str) -> None:
    """It is there, and as a whole it could not be opened."""
    (tmp_path / "taken").write_text("")
    (tmp_path / "s.safetensors").write_bytes(b"damaged")
    outcome = cli(*command, str(tmp_path / "s.safetensors"), "--output", str(tmp_path / "taken" / folder))
    assert (
        outcome.code == 2
        and outcome.err
        == f"Error: {tmp_path / 'taken' / folder} cannot be made: {tmp_path / 'taken'} is a file\n"
        "  → name a folder: --output DIR\n"
    )
