"""Files of the package as trees, for tests of what stands in them: a process parses each once."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file, which no test may change."""
    return ast.parse(path.read_text(encoding="utf-8"))
