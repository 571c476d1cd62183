"""One way from what a user typed to a student: what it says, where its base is, and the preset of its teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml

import piflow_cli as piflow
from piflow_cli.students.locate import WEIGHTS_NAME
from piflow_cli.students.open import find_student, open_student


@pytest.fixture(scope="module")
def run(tiny_teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return piflow.distill(tiny_teacher, folder, settings={"optimisation.iterations": 2}, device="cpu")


def test_a_run_its_adapter_and_its_file_are_one_student_with_one_preset(run) -> None:
    settings = yaml.safe_load((run / "run.yaml").read_text())
    expected = open_student(run).model.state_dict()
    for place in (run, str(run / "adapter"), run / "adapter" / WEIGHTS_NAME):
        found = find_student(place)
        # The preset is no shipped one: only the run knows it.
        assert (found.preset().name, found.preset().data.images) == ("tiny", settings["data"]["images"])
        assert (found.named, found.facts.iterations, found.folder) == (str(place), 2, run / "adapter")
        loaded = found.load().model.state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


def test_from_inside_its_folder_it_is_the_student_of_its_run(run, monkeypatch) -> None:
    monkeypatch.chdir(run / "adapter")
    for place in (".", WEIGHTS_NAME, "../adapter"):
        found = find_student(place)
        assert found.preset().name == "tiny" and found.folder.resolve() == run / "adapter"


def test_another_base_is_at_its_newest_and_the_own_one_where_it_was_trained(run) -> None:
    facts = replace(find_student(run).facts, base="owner/base", revision="v1")
    assert facts.base_at() == ("owner/base", "v1")
    assert replace(facts, revision="").base_at() == ("owner/base", None)
    assert facts.base_at("owner/other") == ("owner/other", None)


def test_a_teacher_on_another_base_is_not_asked_for_the_presets_revision(tiny_teacher, tmp_path, monkeypatch) -> None:
    preset = yaml.safe_load(tiny_teacher.read_text())
    preset["teacher"] |= {"base": "owner/base", "revision": "v1"}
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(preset))
    asked = []

    def download(repository: str, *, revision: str | None, **request: object) -> str:
        asked.append((repository, revision))
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    for options in ({}, {"base": "owner/other"}):
        with pytest.raises(piflow.RunError, match="it is not in the cache"):
            piflow.sample(teacher="teacher.yaml", device="cpu", **options)
    assert set(asked) == {("owner/base", "v1"), ("owner/other", None)}


def test_another_teacher_or_a_base_without_use_is_refused(run) -> None:
    with pytest.raises(piflow.UsageError, match="was trained for the teacher tiny, not digits") as caught:
        find_student(run, "digits")
    assert caught.value.hint == "leave --teacher out, or distil one: piflow distill --teacher digits"
    with pytest.raises(piflow.UsageError, match="this student brings all of its own"):
        open_student(run, base=str(run))
