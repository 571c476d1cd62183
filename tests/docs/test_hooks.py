"""The hook that compares written pages watches all that they are written from."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from doc_blocks import ROOT, read_order

# Prints the files of the repository that a program imports or opens while it makes its pages.
WATCHED = """
import os, sys
root, found = sys.argv[1] + os.sep, set()
sys.addaudithook(lambda event, told: event == "open" and isinstance(told[0], str) and found.add(told[0]))
sys.path[:0] = [root, root + "tests"]
{making}
found |= {{module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)}}
inside = {{os.path.relpath(os.path.realpath(path), root) for path in found if os.path.isabs(path)}}
print(*sorted(path for path in inside if not path.startswith("..") and "__pycache__" not in path), sep="\\n")
"""


def pattern() -> re.Pattern[str]:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    [files] = [hook["files"] for hook in hooks if hook["id"] == "written-pages"]
    return re.compile(files)


@pytest.mark.parametrize(
    ("making", "known"),
    [
        (
            "import docs_pages; docs_pages.pages()",
            {
                "piflow_cli/presets/schema.py",
                "piflow_cli/core/policies/kinds.py",
                "piflow_cli/evaluation/metric_kinds.py",
                "piflow_cli/exporting/formats/__init__.py",
                "tests/benchmarks/results/digits-cpu.json",
                "tests/outside/straight_policy.py",
                "docs/hundred_lines.py",
            },
        ),
        (
            "import recipe_table; recipe_table.markdown()",
            {"tests/data/published_recipes.yaml", "presets/flux-dev.yaml", "tests/recipe_table.py"},
        ),
    ],
    ids=["docs_pages", "recipe_table"],
)
def test_what_pages_are_made_from_is_watched(making: str, known: set[str]) -> None:
    command = [sys.executable, "-c", WATCHED.format(making=making), str(ROOT)]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert known <= {*read}
    assert not [path for path in read if not pattern().match(path)]


def test_the_pages_themselves_and_their_tests_are_watched() -> None:
    tests = [Path(__file__).relative_to(ROOT), Path("tests/presets/test_recipe.py"), Path("docs/mkdocs.yml")]
    pages = [path.relative_to(ROOT) for path in read_order()]
    assert not [path for path in [*tests, *pages] if not pattern().match(path.as_posix())]
    assert not pattern().match("tests/core/test_rollout.py")
