"""A package that brings what is no row is named, in one line; the command that asks for it does nothing."""

from __future__ import annotations

import pytest
from outside_packages import installed, run_commands

FAMILY = "from piflow_cli.presets.families import FamilyKind\nROW = FamilyKind"
METRIC = "from piflow_cli.evaluation.metric_kinds import MetricKind\nROW = MetricKind"
LIST, EVAL = ["distill", "--list-teachers"], ["eval", "run", "--metrics", "fid"]


@pytest.mark.parametrize(
    ("group", "command", "module", "said"),
    [
        ("teachers", LIST, "raise OSError('no licence')", "which cannot be imported: no licence"),
        ("teachers", LIST, "ROW = 'broken'", "which is no FamilyKind of that name"),
        ("teachers", LIST, f"{FAMILY}('other', 'm:C', 'text')", "which is no FamilyKind of that name"),
        ("teachers", LIST, f"{FAMILY}('broken', 'm:C', 'a tale')", "is told 'a tale', which is neither class nor text"),
        ("metrics", EVAL, f"{METRIC}('broken', 'm:f', (), frozenset({{'luck'}}))", "needs 'luck', which is none of"),
        ("metrics", EVAL, f"{METRIC}('broken', 'm:f', (), frozenset(), 'dear')", "costs 'dear', which is none of"),
        ("metrics", EVAL, "import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
    ],
)
def test_a_package_that_brings_no_row_is_named(cli, tmp_path, monkeypatch, group, command, module, said) -> None:
    info = tmp_path / "broken_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[piflow.{group}]\nbroken = broken_module:ROW\n")
    (tmp_path / "broken_module.py").write_text(module + "\n")
    with installed(monkeypatch, tmp_path):
        outcome = cli(*command)
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 2, outcome.err
    assert "broken-package brings broken as broken_module:ROW" in outcome.err and said in outcome.err
    assert "pip uninstall broken-package" in outcome.err


def test_a_policy_that_cannot_be_used_stops_only_who_asks_for_it(tmp_path) -> None:
    info = tmp_path / "broken_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[piflow.policies]\nbroken = broken_module:ROW\nother = other_module:ROW\n")
    (tmp_path / "broken_module.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "other_module.py").write_text("ROW = 3\n")
    digits = ["distill", "--teacher", "digits", "--dry-run", "--quiet"]
    done = run_commands([digits, [*digits, "--policy", "broken"]], tmp_path, packages=tmp_path)
    assert done.returncode == 1 and done.stdout.count("# distill") == 2, done.stderr
    assert "broken-package brings broken as broken_module:ROW, which cannot be imported" in done.stderr
    assert "pip uninstall broken-package" in done.stderr
