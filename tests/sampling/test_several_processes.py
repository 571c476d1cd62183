"""Pictures that several processes share are those of one; whatever ends one of them ends all, with one message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from own_process import piflow
from text_students import saved_student
from thread_processes import opening
from zoo import ZOO

from piflow_cli.console import Console
from piflow_cli.data.prompts import Prompt
from piflow_cli.errors import Reported, RunError
from piflow_cli.sampling import files
from piflow_cli.sampling import sample as sampling
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.teachers import families

QUIET = Console(quiet=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def drawn(folder: Path, **asked: object) -> dict:
    return sampling.sample(SampleRequest(output=folder, device="cpu", **asked), QUIET)


def test_two_processes_write_the_files_of_one_and_speak_as_one(cli, tiny_run, tmp_path, monkeypatch) -> None:
    """Three batches for two, of which the second waits in the last turn."""
    told = ["sample", tiny_run, "--seeds", "5-16", "--batch-size", "5", "--stochastic", "0.5", "--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    alone = cli(*map(str, told), "--output", "one", "--json")
    command = piflow(*told, "--output", "two", "--json", "--num-processes", "2")
    done = subprocess.run(command, capture_output=True, text=True)
    assert (alone.code, done.returncode) == (0, 0), done.stderr
    assert done.stderr == ""
    made = {"one": json.loads(alone.out), "two": json.loads(done.stdout)}
    for name, result in made.items():
        assert [path.partition("/")[0] for path in result.pop("images")] == [name] * 12
        assert result.pop("grid") == f"{name}/grid.png" and result.pop("seconds") > 0
    assert made["one"] == made["two"]
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "two")) == 13


@pytest.mark.parametrize(("count", "size"), [(2, 1), (3, 2), (4, 100)])
def test_processes_share_the_prompts_and_encode_their_own(
    text_encoders, tmp_path, monkeypatch, count: int, size: int
) -> None:
    """Prompts with several seeds and sizes: batches are of one size. Some processes may have nothing to do."""
    adapter = saved_student(ZOO["flux"], tmp_path)
    kind = families()["flux"]
    encode, encoded = kind.encode_prompts, []

    def counting(self, used, texts):
        encoded.extend(texts)
        return encode(self, used, texts)

    monkeypatch.setattr(kind, "encode_prompts", counting)
    texts = ["a fox", "cat", "a red cat", "rain"]
    prompts = [Prompt(text, width=64 + 16 * (len(text) % 2), height=64) for text in texts]
    asked = dict(student=str(adapter), prompts=tuple(prompts), seeds=(3, 8), batch_size=size)
    alone = drawn(tmp_path / "one", **asked)
    assert sorted(encoded) == sorted(texts)
    encoded.clear()
    first, *others = opening(monkeypatch, "piflow_cli.sampling.sample")(
        count, lambda: drawn(tmp_path / "many", **asked)
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert [path.name for path in first["images"]] == [path.name for path in alone["images"]]
    assert all(other["images"] == [] for other in others)
    # Two seeds of a prompt may be for two processes.
    assert set(encoded) == set(texts) and len(encoded) == {1: 8, 2: 4, 100: 4}[size]


def test_who_has_nothing_to_do_is_told_of(tiny_run, tmp_path, monkeypatch, capsys) -> None:
    run = opening(monkeypatch, "piflow_cli.sampling.sample")

    def made(count: int, seeds: int) -> str:
        request = SampleRequest(str(tiny_run), seeds=tuple(range(seeds)), output=tmp_path / str(seeds), device="cpu")
        console = Console()
        run(count, lambda: sampling.sample(request, console))
        return "".join(line for line in capsys.readouterr().err.splitlines(True) if line.startswith("Warning"))

    assert made(3, 12) == "Warning: 1 batch for 3 processes, of which 2 wait: --batch-size 4 would make more\n"
    assert made(3, 2) == "Warning: 1 batch for 3 processes, of which 2 wait\n"
    assert "processes" not in made(2, 65)


def test_what_one_process_cannot_draw_ends_all_and_what_was_written_is_whole(tiny_run, tmp_path, monkeypatch) -> None:
    whole = files.to_images

    def fails(pictures):
        if len(pictures) == 1:
            raise RunError("the last batch is bad", "leave it out")
        return whole(pictures)

    monkeypatch.setattr(files, "to_images", fails)
    run = opening(monkeypatch, "piflow_cli.sampling.sample")
    # Batches of 2 for two processes; the fourth, of one picture, is the second's.
    asked = dict(student=str(tiny_run), seeds=tuple(range(7)), batch_size=2)
    first, other = run(2, lambda: drawn(tmp_path / "out", **asked))
    assert isinstance(first, RunError) and first.message == "the last batch is bad" and isinstance(other, Reported)
    assert sorted(contents(tmp_path / "out")) == [f"{seed:06d}.png" for seed in range(4)]


def test_what_can_be_refused_at_once_starts_no_process(cli, tiny_run, tmp_path, monkeypatch) -> None:
    launched = []
    monkeypatch.setattr("piflow_cli.system.processes.launch", lambda *given: launched.append(given))
    (tmp_path / "file").touch()
    two = ["--num-processes", "2", "--device", "cpu"]
    assert cli("sample", "./none", "--output", str(tmp_path / "out"), *two).code == 2
    assert cli("sample", str(tiny_run), "--output", str(tmp_path / "file"), *two).code == 2
    assert cli("eval", "./none", "--output", str(tmp_path / "out"), *two).code == 2
    pictures = cli("eval", "--images", str(tmp_path), "--reference", str(tmp_path), *two)
    assert pictures.code == 2 and "one process measures" in pictures.err
    assert launched == []
    assert cli("sample", str(tiny_run), "--output", str(tmp_path / "out"), *two).code == 0
    assert [processes for _, processes, _ in launched] == [2] and launched[0][0][0] == "sample"


SPOILED = """
import os, signal, sys
from piflow_cli.app import main
from piflow_cli.errors import RunError
from piflow_cli.sampling import files
how, ranks = os.environ["SPOILED"].split()
whole, calls = files.to_images, []
def spoiled(pictures):
    calls.append(None)
    if os.environ["RANK"] in ranks and len(calls) == 2:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RunError("it is spoiled", "mend it") if how == "error" else ZeroDivisionError("by zero")
    return whole(pictures)
files.to_images = spoiled
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ("error 1", "Error: it is spoiled"),
        ("error 0", "Error: it is spoiled"),
        ("error 01", "Error: it is spoiled"),
        ("fault 1", "Error: ZeroDivisionError: by zero"),
        ("kill 1", None),
    ],
)
def test_whatever_ends_one_ends_all_with_one_message(tiny_run, tmp_path, spoiled: str, said: str | None) -> None:
    """Under torchrun, which adds a report of its own, and alone speaks of one that was killed."""
    (tmp_path / "spoiled.py").write_text(SPOILED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "spoiled.py"]
    command += ["sample", str(tiny_run), "--batch-size", "4", "--device", "cpu", "--output", "out", "--quiet"]
    variables = {**os.environ, "SPOILED": spoiled}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables, timeout=300)
    assert done.returncode == 1 and done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert errors == ([] if said is None else [said])
    assert "SIGKILL" in done.stderr or said is not None


@pytest.mark.long
def test_ctrl_c_ends_all_with_one_message_and_whole_files(tiny_run, tmp_path) -> None:
    command = piflow("sample", tiny_run, "--seeds", "0-99999", "--batch-size", "4", "--num-processes", "2")
    command += ["--device", "cpu", "--output", "out", "--no-grid"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        deadline = time.monotonic() + 180
        while not list(tmp_path.glob("out/*.png")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=180)[1]
    assert process.returncode == 130, said
    assert [line for line in said.splitlines() if line.startswith("Error")] == ["Error: interrupted"]
    assert "Traceback" not in said and all(path.suffix == ".png" for path in (tmp_path / "out").iterdir())
