"""The floors of the house, as pyproject.toml states them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from package_source import tree_of

from piflow_cli.core.policies.kinds import policy_kinds
from piflow_cli.packages import object_at
from piflow_cli.presets.families import ROWS as FAMILIES
from piflow_cli.teachers.base import TeacherFamily

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "piflow_cli"
# A row that names what stands on a floor above it: import-linter does not read texts.
UPWARDS = {
    "presets/families.py": {"teachers"},
    "core/policies/dx.py": {"inspection"},
    "core/policies/gmflow.py": {"inspection"},
    "core/policies/momentum.py": {"inspection"},
}
PLACE = re.compile(r"piflow_cli\.(\w+)\.[\w.]+:\w+")


@cache
def trees() -> dict[Path, ast.Module]:
    """Every file of the package, by its place in it."""
    return {path.relative_to(PACKAGE): tree_of(path) for path in PACKAGE.rglob("*.py")}


def test_nothing_imports_upwards_and_there_is_no_circle() -> None:
    # A process of its own: import-linter reads the configuration of the folder that it is started in.
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_rows_name_what_stands_above_them() -> None:
    """The names of modules in texts, from one room to another."""
    found: dict[str, set[str]] = {}
    for place, tree in trees().items():
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        rooms = {match[1] for text in texts if isinstance(text, str) and (match := PLACE.fullmatch(text))}
        if others := rooms - {place.parts[0]}:
            found[place.as_posix()] = others
    assert found == UPWARDS


def test_what_rows_name_is_there() -> None:
    from piflow_cli.inspection.kinds.anatomy import Anatomy

    for kind in policy_kinds():
        assert kind.anatomy is None or isinstance(object_at(kind.anatomy), Anatomy), kind.name
    for family in FAMILIES.values():
        assert issubclass(object_at(family.family), TeacherFamily) and object_at(family.family).name == family.name


@pytest.mark.parametrize(
    ("program", "rooms"),
    [
        ("from piflow_cli.core.policies.kinds import policy_kinds; policy_kinds()", {"core", "errors", "packages"}),
        (
            "from piflow_cli.presets.families import usable_families; list(usable_families());"
            "from piflow_cli.presets.resolve import load; load('flux-dev')",
            {"core", "errors", "packages", "presets", "console", "streams", "ranks", "wording", "system"},
        ),
    ],
    ids=["policies", "families"],
)
def test_reading_a_row_loads_nothing_above_it(program: str, rooms: set[str]) -> None:
    """What it names is looked up by the floor that it is on."""
    loaded = "{name.split('.')[1] for name in sys.modules if name.startswith('piflow_cli.')}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}; print(*{loaded})"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= rooms


def test_what_rows_name_is_looked_up_by_its_own_floor_alone() -> None:
    """``anatomy`` is a column that no other class has as a field."""
    users = {
        place.parts[0]
        for place, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "anatomy"
    }
    assert users == {"inspection"}
