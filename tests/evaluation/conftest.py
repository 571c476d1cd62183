"""The command with folders of its own, for everything that is measured on students."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def evaluate(cli, tmp_path: Path) -> Callable:
    """`evaluate(run, "--metrics", "fid")` as the command, with folders of its own."""

    def run(*arguments: object):
        folders = ["--output", tmp_path / "report", "--overwrite", "--cache", tmp_path / "cache"]
        return cli("eval", *map(str, [*arguments, *folders]), "--json")

    return run
