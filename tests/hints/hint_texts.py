"""Every hint that the program can give, read off its source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import piflow_cli

PACKAGE = Path(piflow_cli.__file__).parent
ERRORS = {"UsageError", "RunError", "PiflowError", "Interrupted", "_run_error"}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# What a hint has in it that is to be typed: an option, a program, or the name that is filled in last.
TYPED = re.compile(
    r"piflow [a-z-]+|(?<![\w-])--[a-z]|\{\} |: \{\}|\{\}$|pip install|hf auth|ulimit|unset|\brm |kill |PIFLOW_DEBUG"
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "standalone" not in path.parts)


@cache
def hints_of(path: Path) -> list[tuple[int, str]]:
    """Every hint in a module, with its line; what is filled in is written as {}."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in ERRORS:
            given = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "hint")]
            found += [(argument.lineno, text) for argument in given for text in texts_of(argument)]
        elif isinstance(node, ast.Assign) and all(getattr(target, "id", "").isupper() for target in node.targets):
            # A constant that several hints share.
            found += [(node.lineno, text) for text in texts_of(node.value) if OPTION.search(text) and " " in text]
    return found


def texts_of(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)]
    if isinstance(node, ast.IfExp):
        return texts_of(node.body) + texts_of(node.orelse)
    return []


def to_type() -> set[str]:
    """Every hint with something to type, as "module: text"; what is filled in is written as {}."""
    return {
        f"{path.relative_to(PACKAGE).as_posix()}: {text}"
        for path in modules()
        for _, text in hints_of(path)
        if TYPED.search(text)
    }
