"""The site builds, its made pages are of this program, and what README and docs name is there."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import docs_pages
import pytest
from doc_blocks import PAGES, ROOT, read_order
from package_source import tree_of
from recipe_table import TABLE

import piflow_cli
from piflow_cli.core.policies import kinds as policies
from piflow_cli.evaluation import metric_kinds
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.presets.families import TEXT, conditioning_of
from piflow_cli.presets.resolve import available, load

FIGURE_BYTES = 150_000
# The teacher at 8 steps is 0.024 away, the untrained student 0.37.
CLOSE = 0.01


@pytest.mark.parametrize("path", docs_pages.pages(), ids=lambda path: path.name)
def test_a_made_page_is_of_this_program(path: Path) -> None:
    made = docs_pages.pages()[path]
    assert path.read_text(encoding="utf-8") == made, "python tests/docs_pages.py makes it anew"


def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    """Pages are read where there is no network too: nothing but links leads out of them."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        str(ROOT / "docs" / "mkdocs.yml"),
        "-d",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    for path in PAGES.glob("*.md"):
        page = (tmp_path / f"{path.stem}.html").read_text(encoding="utf-8")
        outside = re.findall(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"?(https?://[^\"> ]+)", page)
        assert not outside, path.name


def test_every_page_is_on_the_map() -> None:
    assert set(PAGES.glob("*.md")) == {path for path in read_order() if path.parent == PAGES}
    assert TABLE in read_order()


def test_what_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()]
    assert len(links) > 10 and not missing


def test_paths_in_code_marks_are_there() -> None:
    """Paths of this repository, as `tests/zoo.py`, in README and docs."""
    named = re.compile(r"`((?:tests|docs|presets|piflow_cli|completions)/[\w./-]*)`")
    paths = {(path.name, name) for path in read_order() for name in named.findall(path.read_text(encoding="utf-8"))}
    assert len(paths) > 10 and not [(page, name) for page, name in paths if not (ROOT / name).exists()]


def test_figures_are_small() -> None:
    figures = list((PAGES / "figures").iterdir())
    assert figures and all(figure.stat().st_size < FIGURE_BYTES for figure in figures)


def test_a_hundred_lines_bring_a_student_of_one_evaluation_to_its_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    script = ROOT / "docs" / "hundred_lines.py"
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert all(str(name).startswith("piflow_cli.core") for name in imported - {"torch", "itertools"})
    runpy.run_path(str(script), run_name="__main__")
    distances = {line[:18].strip(): float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[1:]}
    assert distances["untrained student"] > 10 * CLOSE
    assert distances["student"] < CLOSE


def test_a_section_of_the_changelog_is_one_list() -> None:
    """A blank line between two of its points would set all of them wider."""
    parts = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n\n")
    assert not [after for before, after in pairwise(parts) if before.startswith("- ") and after.startswith("- ")]


MESSAGE = re.compile(r"^\| (`[^|]+`(?:, `[^|]+`)*)(?: [^|`]+)? \| ", re.MULTILINE)


def test_messages_of_troubleshooting_are_those_of_the_program() -> None:
    package = Path(piflow_cli.__file__).parent
    said = "\0".join(
        node.value
        for path in package.rglob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    cells = MESSAGE.findall((PAGES / "troubleshooting.md").read_text(encoding="utf-8"))
    pieces = [
        piece.strip() for cell in cells for message in re.findall("`([^`]+)`", cell) for piece in message.split("...")
    ]
    assert len(cells) > 20 and not [piece for piece in pieces if piece and piece not in said]


def test_every_setting_and_option_has_a_meaning() -> None:
    rows = [line for page in ("settings", "commands") for line in (PAGES / f"{page}.md").read_text().splitlines()]
    assert not [row for row in rows if row.startswith("| `") and (row.endswith("|  |") or "| Of " in row)]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("evaluation", metric_kinds.ROWS),
        ("exports", FORMATS),
        ("configuration", policies.ROWS),
        ("text-to-image", [name for name in available() if conditioning_of(load(name).teacher.family) == TEXT]),
        ("imagenet", [name for name in available() if name.startswith("imagenet")]),
    ],
)
def test_a_page_names_all_that_there_is(page: str, names: Iterable[str]) -> None:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert list(names) and not [name for name in names if f"`{name}`" not in text]
