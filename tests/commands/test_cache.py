"""`piflow cache`: sizes by kind, and removing, after a question where a person is there."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from piflow_cli.system.files import cache_key
from piflow_cli.weights.cache import Cache
from piflow_cli.weights.cache_kinds import EVAL, ROWS, STATISTICS


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch) -> Path:
    """A cache of its own with an entry of two kinds, one of which is old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "piflow"
    for kind in (EVAL, STATISTICS):
        Cache(folder / kind).put(cache_key(of=kind), {"rows": torch.arange(8.0)})
    old = time.time() - 40 * 24 * 3600
    os.utime(next((folder / STATISTICS).rglob("*.safetensors")), (old, old))
    return folder


def kinds(cli) -> dict[str, int]:
    return {row["kind"]: row["entries"] for row in json.loads(cli("cache", "--json").out)["kinds"]}


def test_it_lists_every_kind(cli, root: Path) -> None:
    assert kinds(cli) == {**dict.fromkeys(ROWS, 0), "states": 1, STATISTICS: 1}
    size = sum(path.stat().st_size for path in root.rglob("*.safetensors"))
    said = cli("cache")
    assert said.out.splitlines()[-1] == f"{size / 1e3:.1f} kB in {root}"
    assert [line.split()[0] for line in cli("cache", "show", "states").out.splitlines()[1:2]] == ["states"]


def test_prune_removes_what_is_old_or_damaged(cli, root: Path) -> None:
    told = json.loads(cli("cache", "prune", "--days", "41", "--json").out)
    assert (told["removed"], told["stayed"]) == (0, {})
    assert json.loads(cli("cache", "prune", "--json").out)["removed"] == 1
    assert kinds(cli)[STATISTICS] == 0
    shard = next((root / EVAL).rglob("*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert json.loads(cli("cache", "prune", "--json").out)["removed"] == 1


def test_clear_asks_or_is_told(cli, root: Path, monkeypatch) -> None:
    for options in ((), ("--json",)):
        refused = cli("cache", "clear", *options)
        assert refused.code == 2 and "add --yes" in refused.err
    assert json.loads(cli("cache", "clear", "states", "--yes", "--json").out)["removed"] == 1
    assert kinds(cli) == {**dict.fromkeys(ROWS, 0), STATISTICS: 1}
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    asked: list[str] = []
    answers = iter([False, True])
    monkeypatch.setattr("typer.confirm", lambda question, err: asked.append(question) or next(answers))
    assert "Nothing was removed." in cli("cache", "clear").err and kinds(cli)[STATISTICS] == 1
    assert cli("cache", "clear").code == 0 and kinds(cli)[STATISTICS] == 0
    assert asked[0].startswith("Remove 1 entries, ") and str(root) in asked[0]
    # Of nothing nobody is asked.
    assert cli("cache", "clear").code == 0 and len(asked) == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("clear", "state", "--yes"), "choose one of states, "),
        (("show", "--yes"), "leave --yes out"),
        (("clear", "--days", "3"), "leave --days out"),
    ],
)
def test_what_does_not_go_together_is_said(cli, line: tuple[str, ...], says: str) -> None:
    said = cli("cache", *line)
    assert said.code == 2 and says in said.err and sum(kinds(cli).values()) == 2
