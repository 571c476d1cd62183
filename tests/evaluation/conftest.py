"""A finished run of the tiny teacher, for everything that is measured on students."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_run(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of two evaluations, barely trained, in its run folder."""
    from piflow_cli.app import main

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert (
        main(
            [
                "distill",
                "--teacher",
                str(tiny_teacher),
                "--nfe",
                "2",
                "--iterations",
                "2",
                "--quiet",
                "--output",
                str(folder),
            ]
        )
        == 0
    )
    return folder


@pytest.fixture
def evaluate(cli, tmp_path: Path) -> Callable:
    """`evaluate(run, "--metrics", "fid")` as the command, with folders of its own."""

    def run(*arguments: object):
        folders = ["--output", tmp_path / "report", "--cache", tmp_path / "cache"]
        return cli("eval", *map(str, [*arguments, *folders]), "--json")

    return run
