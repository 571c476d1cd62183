"""What a user may call a student: runs, folders, files, Hub ids; and what is
said where there is none, or more than one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from exports import export
from forbidden import forbid
from safetensors.torch import load_file, save_file
from tiny_students import tiny_student, velocity

from piflow_cli.errors import RunError, UsageError
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.locate import WEIGHTS_NAME, StudentFiles, locate_student
from piflow_cli.students.open import find_student, open_student


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("students") / "one"
    save_adapter(tiny_student(), folder)
    return folder


@pytest.fixture
def hub(adapter, tmp_path, monkeypatch):
    """A repository with two students in folders, and one in a file of its own name;
    snapshot_download copies what is asked for."""
    repository, snapshot = tmp_path / "repository", tmp_path / "snapshot"
    for name in ("gm_4step", "gm_8step"):
        shutil.copytree(adapter, repository / name)
    shutil.copy(adapter / WEIGHTS_NAME, repository / "student.safetensors")
    snapshot.mkdir()

    def download(name: str, *, allow_patterns, **request) -> str:
        assert name == "owner/students"
        files = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        for file in huggingface_hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns):
            (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / file, snapshot / file)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return snapshot


def test_a_folder_its_file_and_the_folder_around_it_are_one_student(adapter) -> None:
    expected = StudentFiles(adapter / WEIGHTS_NAME, adapter / "config.json")
    for place in (adapter, str(adapter), adapter / WEIGHTS_NAME, adapter.parent):
        assert locate_student(place) == expected
    assert locate_student(adapter.parent, "one") == expected


def test_a_file_without_a_config_has_none(adapter, tmp_path) -> None:
    shutil.copy(adapter / WEIGHTS_NAME, tmp_path / "mine.safetensors")
    assert locate_student(tmp_path / "mine.safetensors") == StudentFiles(tmp_path / "mine.safetensors", None)
    assert find_student(tmp_path / "mine.safetensors").facts.nfe == 2


def test_a_student_on_the_hub_is_fetched_and_nothing_else(hub) -> None:
    for student, subfolder in (("owner/students/gm_4step", None), ("owner/students", "gm_4step")):
        found = locate_student(student, subfolder)
        assert found == StudentFiles(hub / "gm_4step" / WEIGHTS_NAME, hub / "gm_4step" / "config.json")
    assert not (hub / "gm_8step").exists() and not (hub / "student.safetensors").exists()
    assert locate_student("owner/students/student.safetensors").weights == hub / "student.safetensors"
    torch.testing.assert_close(
        velocity(open_student("owner/students/gm_4step")), velocity(tiny_student()), rtol=0, atol=0
    )


@pytest.mark.parametrize("student", ["owner/students", "owner/students/gm_2step"])
def test_a_repository_of_several_students_names_its_folders(hub, student: str) -> None:
    with pytest.raises(UsageError, match="owner/students holds no") as caught:
        locate_student(student)
    assert caught.value.hint.startswith("choose one of its folders: --subfolder gm_4step, gm_8step")


def test_what_is_said_of_the_hub_names_no_option_of_a_base(monkeypatch, tmp_path) -> None:
    def away(*arguments, **options):
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    monkeypatch.chdir(tmp_path)
    said = "there is no folder owner/name here; on the Hub, owner/name: it is not in the cache"
    with pytest.raises(RunError, match=said) as caught:
        locate_student("owner/name")
    assert "--base" not in caught.value.hint and "name a local folder" in caught.value.hint
    finished(tmp_path / "runs" / "digits")
    with pytest.raises(RunError, match="there is no folder run/digits here") as caught:
        locate_student("run/digits")
    assert caught.value.hint.endswith("or name the run runs/digits")


def finished(folder: Path) -> None:
    """What a run that has ended leaves behind, its student aside."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "run.yaml").touch()


NEAR = "choose among runs/digits, runs/dx, 'runs/two words'"


@pytest.mark.parametrize("command", ["sample", "eval", "inspect-policy", "export --format adapter"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("runs/digit", NEAR),
        ("runs/digit/", NEAR),
        ("./digit", NEAR),
        ("digit", NEAR),
        ("runs/../digit", NEAR),
        ("runs/digits/adaptor", "name the run runs/digits"),
        ("runs/digits/checkpoints/0000100", "name the run runs/digits"),
        ("~/digit", NEAR),
        ("runs/two word", "choose among 'runs/two words', runs/dx, runs/digits"),
    ],
)
def test_a_slip_in_the_path_of_a_run_is_answered_with_the_runs_near_it(
    cli, tmp_path, monkeypatch, command, name, hint
) -> None:
    """The Hub is not asked, where there would be no answer."""
    for run in ("digits", "dx", "two words"):
        finished(tmp_path / "runs" / run)
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "unfinished" / "run.yaml").touch()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    first, *options = command.split()
    outcome = cli(first, name, *options)
    place = name.replace("~", str(tmp_path / "home"))
    # Of a long path the beginning is said.
    said = place if len(place) <= 60 else f"{place[:60]}..."
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"Error: there is no student at {said}: no such file or folder\n  → {hint}\n"


def test_where_there_is_no_run_it_is_said_how_one_is_made(tmp_path, monkeypatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no student at runs/digits: no such file or folder") as caught:
        locate_student("runs/digits")
    assert caught.value.hint.endswith("piflow distill --teacher digits makes runs/digits")


@pytest.mark.parametrize("command", ["sample", "eval", "inspect-policy", "export --format adapter"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a" * 300, f"there is no student at {'a' * 60}..."),
        ("a\nb\x1b[1m", r"there is no student at a\nb\x1b[1m: no such file"),
        ("", " is empty"),
        (" ", " is empty"),
    ],
)
def test_a_name_that_no_student_can_have_is_said_of_the_student(cli, tmp_path, monkeypatch, command, name, said):
    """Not of the folder for what is made, whose name is the student's."""
    monkeypatch.chdir(tmp_path)
    first, *options = command.split()
    outcome = cli(first, name, *options)
    assert outcome.code == 2 and said in " ".join(outcome.err.split()) and "--output" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_folder_with_two_adapters_names_them(adapter, tmp_path) -> None:
    shutil.copytree(adapter, tmp_path / "both")
    shutil.copy(adapter / WEIGHTS_NAME, tmp_path / "both" / "other.safetensors")
    with pytest.raises(
        UsageError, match="more than one student: diffusion_pytorch_model.safetensors, other.safetensors"
    ) as caught:
        locate_student(tmp_path / "both")
    assert str(tmp_path / "both") in caught.value.hint
    for name in "ab":
        shutil.copytree(adapter, tmp_path / "apart" / name)
    with pytest.raises(UsageError, match="more than one student: a, b") as caught:
        locate_student(tmp_path / "apart")
    assert "--subfolder a" in caught.value.hint
    assert locate_student(tmp_path / "apart", "b").weights.parent == tmp_path / "apart" / "b"


def test_what_is_no_student_is_said_so(adapter, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for place, message in (
        (tmp_path / "none", "no student at"),
        (tmp_path, "is not a student"),
        (tmp_path / "notes.txt", "is no file of weights"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            locate_student(place)
        assert "name a run folder, an adapter folder, a .safetensors file or a Hub id" in caught.value.hint
    with pytest.raises(UsageError, match="there is no folder"):
        locate_student(adapter, "none")


@pytest.mark.parametrize("format", ["pipeline", "merged"])
def test_an_export_for_diffusers_is_said_to_be_one(tmp_path, format: str) -> None:
    folder = export(tiny_student(), format, tmp_path / format)
    for place in (folder, folder / "transformer" if format == "pipeline" else folder / WEIGHTS_NAME):
        with pytest.raises(UsageError, match="is an export for diffusers") as caught:
            locate_student(place)
        assert "name the run that it was exported from" in caught.value.hint


def test_a_whole_pipeline_is_no_choice_of_students(adapter, tmp_path) -> None:
    for part in ("text_encoder", "transformer"):
        shutil.copytree(adapter, tmp_path / part)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UsageError, match="is a whole pipeline of diffusers, not a student") as caught:
        locate_student(tmp_path)
    assert "--base" in caught.value.hint


def test_a_folder_of_runs_names_them(tmp_path, monkeypatch) -> None:
    forbid(monkeypatch, tmp_path / "runs" / "lost+found")
    for name in ("digits", "dx"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.yaml").write_text("")
    with pytest.raises(UsageError, match="is a folder of runs: digits, dx") as caught:
        locate_student(tmp_path / "runs")
    assert str(tmp_path / "runs" / "digits") in caught.value.hint


def test_a_pickled_student_is_read_as_tensors_and_never_run(adapter, tmp_path) -> None:
    tensors = load_file(adapter / WEIGHTS_NAME)
    shutil.copy(adapter / "config.json", tmp_path / "config.json")
    torch.save({"state_dict": tensors}, tmp_path / "student.pth")
    with pytest.raises(UsageError, match="does not say how to sample it"):
        open_student(tmp_path / "student.pth")
    torch.save({"state_dict": tensors, "run": print}, tmp_path / "student.pth")
    with pytest.raises(RunError, match="holds more than tensors, which piflow never runs"):
        open_student(tmp_path / "student.pth")


def test_a_broken_index_is_named(adapter, tmp_path) -> None:
    shutil.copytree(adapter, tmp_path / "sharded")
    (tmp_path / "sharded" / WEIGHTS_NAME).unlink()
    (tmp_path / "sharded" / f"{WEIGHTS_NAME}.index.json").write_text("[]")
    with pytest.raises(RunError, match="is no index of weights"):
        locate_student(tmp_path / "sharded")


def test_a_tensor_under_two_names_is_refused(adapter, tmp_path) -> None:
    tensors = load_file(adapter / WEIGHTS_NAME)
    name = next(iter(tensors))
    twice = {**tensors, f"transformer.{name}": tensors[name].clone()}
    save_file(twice, tmp_path / "twice.safetensors", {"policy_config": json.dumps({"type": "GMFlow"})})
    with pytest.raises(RunError, match="twice"):
        find_student(tmp_path / "twice.safetensors")
