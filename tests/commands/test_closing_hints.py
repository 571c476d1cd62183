"""What a command says is next can be typed as it stands; `tests/hints` does so for every error and warning."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

RUN = "my runs/it's one"  # as a person may call it, and no shell takes it unquoted


def test_what_is_next_is_typed(cli, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def typed(line: str) -> int:
        assert line.startswith("piflow ")
        return cli(*shlex.split(line)[1:], "--quiet").code

    def status() -> dict:
        return json.loads(cli("status", RUN, "--json").out)

    done = cli("distill", "--teacher", str(tiny_teacher), "--iterations", "1", "--output", RUN)
    [said] = re.findall(r"^Next: (.*)$", done.err, re.MULTILINE)
    assert typed(said) == 0 and (tmp_path / "samples" / "it's one" / "grid.png").is_file()
    assert status()["state"] == "finished" and typed(status()["next"]) == 0
    assert (tmp_path / "samples" / "it's one-2" / "grid.png").is_file()
    shutil.rmtree(tmp_path / RUN / "adapter")
    assert status()["state"] == "broken" and typed(status()["next"]) == 0
    assert status()["state"] == "finished"
