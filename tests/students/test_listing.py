"""Students and runs below a folder: each is a row with what it states, broken ones with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from forbidden import forbid
from safetensors.numpy import save_file

from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.listing import students_below
from piflow_cli.system.locking import FolderLock

FACTS = StudentFacts(
    teacher="digits", family="dit", base="preset:digits", policy="dx", components=10, nfe=2, shift=1.0,
    final_step_scale=1.0, segment=0.5, substeps=128, guidance=1.0, temperature="auto", logstd_width=256, iterations=300,
)  # fmt: skip


def write_student(path: Path, facts: StudentFacts | None = FACTS, config: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.ones(3, np.float32)}, path, {} if facts is None else facts.to_metadata())
    if config:
        (path.parent / "config.json").write_text("{}")
    return path


def test_a_run_has_what_its_student_states_and_where_it_stands(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "runs" / "a run"))
    (row,) = students_below(tmp_path / "runs")
    assert (row.path, row.state, row.why, row.teacher) == (run, "finished", None, "tiny")
    assert (row.iteration, row.iterations) == (2, 2)
    assert row.bytes == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    with FolderLock(run):
        assert students_below(run)[0].state == "running"
    # A student that was put into a run's place speaks for itself.
    write_student(run / "adapter" / "diffusion_pytorch_model.safetensors")
    assert [(one.policy, one.components, one.nfe) for one in students_below(tmp_path)] == [("dx", 10, 2)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("run.yaml", "its digest does not match"),
        ("adapter/diffusion_pytorch_model.safetensors", "corrupt or cut short"),
    ],
)
def test_a_run_with_a_damaged_file_is_a_row_with_the_reason(tiny_run: Path, tmp_path, name: str, reason: str) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / name).write_bytes((run / name).read_bytes()[:-9])
    (row,) = students_below(tmp_path)
    assert row.state == "broken" and reason in row.why and row.bytes > 0


def test_students_outside_of_runs_go_by_their_folder_or_their_file(tmp_path: Path) -> None:
    write_student(tmp_path / "one" / "adapter" / "diffusion_pytorch_model.safetensors")
    for number in (1, 2, 3):
        write_student(tmp_path / "sharded" / f"diffusion_pytorch_model-0000{number}-of-00003.safetensors")
    write_student(tmp_path / "loose" / "a.safetensors", config=False)
    write_student(tmp_path / "loose" / "b.safetensors", config=False)
    write_student(tmp_path / "teacher.safetensors", None)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    write_student(tmp_path / ".hidden" / "c.safetensors")
    write_student(tmp_path / "pipeline" / "transformer" / "d.safetensors")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    rows = {row.path.relative_to(tmp_path).as_posix(): row for row in students_below(tmp_path)}
    assert {name: row.state for name, row in rows.items()} == {
        "cut.safetensors": "broken",
        "loose/a.safetensors": "student",
        "loose/b.safetensors": "student",
        "one/adapter": "student",
        "sharded": "student",
    }
    one = rows["one/adapter"]
    assert (one.teacher, one.policy, one.components, one.nfe, one.iteration) == ("digits", "dx", 10, 2, 300)
    assert rows["sharded"].bytes > 3 * rows["loose/a.safetensors"].bytes - 100


def test_the_depth_ends_somewhere_and_links_are_not_followed(tmp_path: Path) -> None:
    write_student(tmp_path / "1/2/3/4/d.safetensors")
    write_student(tmp_path / "1/2/3/4/5/e.safetensors")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [row.path for row in students_below(tmp_path)] == [tmp_path / "1/2/3/4"]


def test_a_folder_that_may_not_be_looked_into_has_nothing_to_show(tmp_path: Path, monkeypatch) -> None:
    """As lost+found where runs have a disk of their own."""
    write_student(tmp_path / "one" / "a.safetensors")
    forbid(monkeypatch, tmp_path / "lost+found")
    assert [row.path for row in students_below(tmp_path)] == [tmp_path / "one"]
