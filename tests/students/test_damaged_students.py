"""One rule for all commands: a damaged student is a failed run, exit 1; where no student is, the command is wrong, exit
2. Nothing is written in either case, and a run says how its student is written again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_students import tiny_student

from piflow_cli.presets.resolve import resolve
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.locate import CONFIG_NAME, WEIGHTS_NAME
from piflow_cli.students.runs import RunFolder

COMMANDS = {
    "sample": ("--seeds", "0"),
    "inspect-policy": ("--seeds", "0"),
    "export": ("--format", "adapter"),
    "eval": ("--num-images", "2", "--fine-steps", "2", "--metrics", "alignment"),
}


def cut(adapter: Path) -> None:
    weights = adapter / WEIGHTS_NAME
    os.truncate(weights, weights.stat().st_size - 1)


def end_in_the_header(adapter: Path) -> None:
    os.truncate(adapter / WEIGHTS_NAME, 20)


def empty_the_file(adapter: Path) -> None:
    os.truncate(adapter / WEIGHTS_NAME, 0)


def flip_a_byte(adapter: Path) -> None:
    content = bytearray((adapter / WEIGHTS_NAME).read_bytes())
    content[-3] ^= 1
    (adapter / WEIGHTS_NAME).write_bytes(content)


def tear_the_config(adapter: Path) -> None:
    (adapter / CONFIG_NAME).write_text("{")


def delete_the_config(adapter: Path) -> None:
    """A file of weights that was copied alone is a student; in a run, which wrote both, something is amiss."""
    (adapter / CONFIG_NAME).unlink()


def delete_the_weights(adapter: Path) -> None:
    (adapter / WEIGHTS_NAME).unlink()


def empty_the_folder(adapter: Path) -> None:
    for file in adapter.iterdir():
        file.unlink()


def delete_the_folder(adapter: Path) -> None:
    shutil.rmtree(adapter)


DAMAGED = (cut, end_in_the_header, empty_the_file, flip_a_byte, tear_the_config)
NOTHING_THERE = (delete_the_weights, empty_the_folder, delete_the_folder)


@pytest.fixture
def run(tmp_path, tiny_teacher) -> Path:
    """The folder of a run with its settings and its student."""
    folder = tmp_path / "run"
    save_adapter(tiny_student(), folder / "adapter")
    RunFolder(folder).write_settings(resolve(tiny_teacher, None, [], {}))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", [*DAMAGED, delete_the_config, *NOTHING_THERE], ids=lambda damage: damage.__name__)
def test_every_command_ends_alike(cli, tmp_path, run, command: str, damage: Callable[[Path], None]):
    damage(run / "adapter")
    output = tmp_path / "output"
    outcome = cli(command, str(run), *COMMANDS[command], "--device", "cpu", "--output", str(output))
    assert outcome.code == (2 if damage in NOTHING_THERE else 1), outcome.err
    assert f"piflow distill --teacher {run / 'run.yaml'} --output {run}" in outcome.err
    assert len(outcome.err.splitlines()) == 2 and not output.exists()


@pytest.mark.parametrize("damage", [*DAMAGED, delete_the_weights, empty_the_folder], ids=lambda damage: damage.__name__)
def test_a_student_outside_of_a_run_ends_alike(cli, run, tmp_path, damage: Callable[[Path], None]):
    (run / "adapter").rename(tmp_path / "student")
    damage(tmp_path / "student")
    outcome = cli(
        "sample", str(tmp_path / "student"), "--seeds", "0", "--device", "cpu", "--output", str(tmp_path / "o")
    )
    assert outcome.code == (1 if damage in DAMAGED else 2), outcome.err
    assert "copy it again" in outcome.err if damage in DAMAGED else "piflow distill --teacher digits" in outcome.err
