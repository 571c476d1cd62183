"""No policy is known by name or class outside of its own files: what the rest asks for is a column of its row."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from package_source import tree_of

import piflow_cli
from piflow_cli.core.policies.kinds import ROWS, policy_kinds

PACKAGE = Path(piflow_cli.__file__).parent
OWN = [PACKAGE / "core" / "policies", PACKAGE / "core" / "kernels", PACKAGE / "inspection" / "kinds"]
CLASSES = {cls.__name__ for kind in policy_kinds() for cls in (kind.policy, kind.head)}


def named(tree: ast.AST) -> Iterator[str]:
    """Names and classes of policies in the code of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in [*ROWS]:
            yield node.value
        elif isinstance(node, ast.Name) and node.id in CLASSES:
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.name in CLASSES)


def test_no_policy_is_named_outside_of_its_own_files():
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if not any(path.is_relative_to(own) for own in OWN)]
    found = {str(path): list(named(tree_of(path))) for path in files}
    assert len(files) > 150 and not {path: names for path, names in found.items() if names}


def test_such_a_name_would_be_found():
    text = "from a import DXPolicy\nisinstance(p, GMHead)\nkind == 'momentum'\n{'dx-poly': 1}\n"
    assert sorted(named(ast.parse(text))) == ["DXPolicy", "GMHead", "dx-poly", "momentum"]
