"""What every export does: nothing over what is there, nothing half-written, nothing that differs; and the Hub."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from weakref import ref

import huggingface_hub
import pytest
from helpers import GOLDEN

from piflow_cli.console import Console
from piflow_cli.errors import PiflowError, RunError, UsageError
from piflow_cli.exporting import driver
from piflow_cli.exporting.driver import export
from piflow_cli.exporting.formats import FORMATS, adapter
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.students.open import FoundStudent
from piflow_cli.weights.digests import MANIFEST

FLUX_TINY = GOLDEN / "flux-tiny"


def request(output: Path, **options) -> ExportRequest:
    values = {
        "student": str(FLUX_TINY / "adapter"),
        "format": "adapter",
        "base": str(FLUX_TINY / "transformer"),
        "device": "cpu",
    }
    return ExportRequest(output=output, **{**values, **options})


def run(output: Path, **options) -> dict:
    return export(request(output, **options), Console(quiet=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_format_has_a_name() -> None:
    assert list(FORMATS) == ["adapter", "pipeline", "merged", "piflow-scheduler"]
    assert all(kind.open().name == name for name, kind in FORMATS.items())


def test_a_folder_that_is_there_is_left_alone_unless_it_is_an_export(tmp_path) -> None:
    run(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match="is not empty") as caught:
        run(tmp_path / "out", student=str(tmp_path))
    assert "--overwrite" in caught.value.hint and contents(tmp_path / "out") == before
    run(tmp_path / "out", overwrite=True, dtype="bf16")
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys() and after["README.md"] != before["README.md"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds something that piflow export did not write: thesis.tex"):
        run(tmp_path / "home", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        run(tmp_path / "file", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home", "out"]


@pytest.mark.parametrize("listed", [None, "0123 *README.md\n"], ids=["no list", "another program's list"])
def test_a_clone_of_a_student_s_repository_is_no_export(tmp_path, listed: str | None) -> None:
    run(tmp_path / "clone")
    (tmp_path / "clone" / "thesis.tex").write_text("years of work")
    (tmp_path / "clone" / MANIFEST).unlink()
    if listed is not None:
        (tmp_path / "clone" / MANIFEST).write_text(listed)
    before = contents(tmp_path / "clone")
    with pytest.raises(UsageError, match="did not write") as caught:
        run(tmp_path / "clone", overwrite=True)
    assert "--output" in caught.value.hint and contents(tmp_path / "clone") == before


@pytest.mark.parametrize("found", [0.5, float("nan")])
def test_what_reads_back_as_something_else_is_a_failed_export(tmp_path, monkeypatch, found: float) -> None:
    monkeypatch.setattr(adapter.AdapterFormat, "verify", lambda *arguments: found)
    with pytest.raises(RunError, match="what was written is not the student: policies differ by"):
        run(tmp_path / "out")
    assert not contents(tmp_path)


def test_a_swapped_tensor_is_noticed(tmp_path, monkeypatch) -> None:
    """The comparison is one of policies: a file of the right names and shapes is not enough."""
    write = adapter.write_adapter

    def swapped(student, folder, tensors, metadata):
        one, other = (f"single_transformer_blocks.{block}.proj_mlp.lora_B.weight" for block in (0, 1))
        write(student, folder, {**tensors, one: tensors[other].clone(), other: tensors[one].clone()}, metadata)

    monkeypatch.setattr(adapter, "write_adapter", swapped)
    with pytest.raises(RunError, match="what was written is not the student"):
        run(tmp_path / "out")
    assert not contents(tmp_path)


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("place", ["piflow_cli.students.adapters.save_file", "piflow_cli.exporting.driver.write_card"])
def test_a_full_disk_leaves_what_was_there(cli, tmp_path, monkeypatch, place: str, earlier: bool) -> None:
    output = tmp_path / "out"
    if earlier:
        run(output)
    before = contents(output) if earlier else {}

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(output))

    monkeypatch.setattr(place, full)
    arguments = [
        str(FLUX_TINY / "adapter"),
        "--format",
        "adapter",
        "--base",
        str(FLUX_TINY / "transformer"),
        "--output",
        str(output),
        "--overwrite",
    ]
    outcome = cli("export", *arguments, "--device", "cpu")
    assert outcome.code == 1 and "the disk is full" in outcome.err and "→" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if earlier else [])
    assert not earlier or contents(output) == before


def test_no_write_permission_is_known_before_the_weights_are_read(cli, tmp_path, monkeypatch) -> None:
    def denied(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr("piflow_cli.system.files.tempfile.mkdtemp", denied)
    monkeypatch.setattr(FoundStudent, "load", lambda *arguments, **options: pytest.fail("weights were read"))
    outcome = cli(
        "export",
        str(FLUX_TINY / "adapter"),
        "--format",
        "adapter",
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    )
    assert (
        outcome.code == 2
        and f"{tmp_path / 'out'} cannot be made: {tmp_path} cannot be written to: Permission denied" in outcome.err
        and "--output DIR" in outcome.err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gguf"}, "--format gguf: no such format"),
        ({"dtype": "int4"}, "--dtype int4: no such dtype"),
        ({"private": True}, "--private is of a repository"),
        ({"push_to_hub": "name"}, "no name of a repository"),
        ({"student": "/nowhere"}, "there is no student at /nowhere"),
        ({"subfolder": "none"}, "there is no folder"),
        ({"teacher": "qwen-image"}, "holds a FluxTransformer2DModel, not a QwenImageTransformer2DModel"),
        ({"base": str(GOLDEN)}, "there is no model in"),
        ({"device": "mps:7:7"}, "is not a device"),
    ],
)
def test_what_cannot_be_exported_says_so(tmp_path, options, message: str) -> None:
    with pytest.raises(PiflowError, match=message) as caught:
        run(tmp_path / "out", **options)
    assert caught.value.exit_code == 2 and caught.value.hint
    assert not contents(tmp_path)


def test_samples_of_prompts_are_made_where_they_are_asked_for(tmp_path, monkeypatch) -> None:
    asked, exported = [], []

    load = FoundStudent.load

    def opened(found, **options):
        student = load(found, **options)
        exported.append(ref(student.model.base))
        return student

    def sample(request, console):
        # Pictures are made with a student of their own: two bases at once may be more than a GPU holds.
        assert exported[-1]() is None
        asked.append(request)
        (request.output / "grid.png").write_bytes(b"a picture")
        return {"grid": request.output / "grid.png"}

    monkeypatch.setattr(FoundStudent, "load", opened)
    monkeypatch.setattr(driver, "sample", sample)
    run(tmp_path / "plain")
    assert not asked and "samples.png" not in contents(tmp_path / "plain")
    run(tmp_path / "shown", prompts=("a red fox", "a blue cat"))
    assert (asked[0].prompts, asked[0].seeds, asked[0].student) == (
        ("a red fox", "a blue cat"),
        (0,),
        str(FLUX_TINY / "adapter"),
    )
    assert contents(tmp_path / "shown")["samples.png"] == b"a picture"
    assert "![Samples](samples.png)" in (tmp_path / "shown" / "README.md").read_text()
    assert not asked[0].output.exists()


class Api:
    """Stands in for HfApi: remembers what it was asked, and fails when told to."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.calls: list[tuple] = []

    def create_repo(self, repo_id, **options) -> str:
        self.calls.append(("create_repo", repo_id, options))
        return f"https://the.hub/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, **options) -> None:
        self.calls.append(("upload_folder", repo_id, sorted(contents(Path(folder_path)))))
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def hub(monkeypatch) -> Api:
    api = Api()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    return api


def test_an_export_is_published_as_it_lies_there(hub, tmp_path) -> None:
    report = run(tmp_path / "out", push_to_hub="me/student", private=True)
    files = ["README.md", "SHA256SUMS", "config.json", "diffusion_pytorch_model.safetensors"]
    assert hub.calls == [
        ("create_repo", "me/student", {"private": True, "exist_ok": True}),
        ("upload_folder", "me/student", files),
    ]
    assert report["pushed"] == "https://the.hub/me/student"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# student\n" in card and "piflow.load_student('me/student'" in card


def test_without_a_token_nothing_is_begun(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UsageError, match="the Hub wants to know who asks") as caught:
        run(tmp_path / "out", push_to_hub="me/student")
    assert caught.value.hint == "hf auth login" and not contents(tmp_path) and not hub.calls


def test_a_hub_that_refuses_leaves_the_export_and_says_so(hub, tmp_path) -> None:
    response = SimpleNamespace(headers={}, status_code=403, request=None)
    hub.failure = huggingface_hub.errors.HfHubHTTPError("no", response=response)
    with pytest.raises(RunError, match="is written, and not pushed: the Hub refuses the access token") as caught:
        run(tmp_path / "out", push_to_hub="me/student")
    assert "hf auth login" in caught.value.hint and (tmp_path / "out" / "README.md").is_file()
