"""What holds of every file: its size, its marks, and what the repository asks of those who write to it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from package_source import tree_of
from tiers import listed, thorough

from piflow_cli import __version__

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "piflow_cli").rglob("*.py"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
MOST_LINES, MOST_OF_A_FUNCTION = 300, 60


def test_no_file_of_the_package_is_longer_than_its_subject() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length >= MOST_LINES} == {}


def test_every_file_says_first_what_it_is_about() -> None:
    """In one sentence, which docs/pages/house.md shows."""
    texts = {str(path.relative_to(ROOT)): ast.get_docstring(tree_of(path)) for path in FILES}
    assert [name for name, text in texts.items() if not text or text.partition("\n\n")[0][-1] not in ".:"] == []


def test_every_function_fits_a_screen() -> None:
    """Whole: what its docstring tells of is to be read beside its code."""
    found = {}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length >= MOST_OF_A_FUNCTION:
                    found[f"{path.relative_to(ROOT)}: {node.name}"] = length
    assert found == {}


def test_no_two_classes_share_a_name() -> None:
    """One name, one meaning: a reader who searches for a class finds one."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "piflow_cli" / "py.typed").is_file()


@pytest.mark.parametrize("path", [form for form in FORMS if form.name != "config.yml"], ids=lambda path: path.stem)
def test_issue_forms_are_what_their_readers_take(path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["type"] in ("input", "textarea") and field["attributes"]["label"] for field in form["body"])


@pytest.mark.parametrize("name", ["bug", "quality"])
def test_a_report_is_asked_for_the_versions(name) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    versions = next(field for field in form["body"] if field["id"] == "versions")
    assert "piflow --version --json" in versions["attributes"]["description"]
    assert versions["validations"] == {"required": True}


def test_the_changelog_begins_with_this_version() -> None:
    heading = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert heading.removeprefix("## ").split()[0] in (__version__, "Unreleased")


def test_what_is_called_slow_or_thorough_is_there() -> None:
    """A test that was renamed would otherwise be in another tier without a word."""
    for name in listed() | thorough():
        file, _, case = name.partition("::")
        function = case.partition("[")[0]
        assert re.search(rf"^def {function}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), name
