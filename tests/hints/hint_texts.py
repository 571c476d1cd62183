"""Every hint that the program can give, read off its source.

Three kinds: the hint of an error, with what functions called ..._hint return and constants that hints are filled with;
news and warnings that name something to type; and faults that say in themselves what to type, since they are reported
together under one hint. What an inspection advises is typed in tests/inspection/test_advice.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from package_source import tree_of

import piflow_cli

PACKAGE = Path(piflow_cli.__file__).parent
ERRORS = {
    "UsageError",
    "RunError",
    "PiflowError",
    "Interrupted",
    "run_error",
    "refuse",
    "missing",
    "broken",
    "check_writable",
} | {"check_writable"}
SPOKEN = {"say", "warn", "info", "warning"}
OF_FAULTS = ("fault", "check", "contradictions")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# What a hint has in it that is to be typed: an option, a program, or the name that is filled in last.
TYPED = re.compile(
    r"piflow [a-z-]+|(?<![\w-])--[a-z]|\{\} |: \{\}|\{\}$|(?:pip|apt) install|hf (?:auth|download)|ulimit"
    r"|unset|export [A-Z]|\brm |kill |PIFLOW_DEBUG"
)
# The same in what is no hint as a whole, and may begin with an option that is wrong.
COMMAND = re.compile(
    r"(?!^)(?<![\w-])--[a-z-]+ [A-Z]{2,}\b|: --[a-z-]+ \{\}$|keep --|piflow (?:[a-z-]+ [^a-z]|eval runs)"
    r"|(?:pip|apt) install"
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "standalone" not in path.parts)


@cache
def hints_of(path: Path) -> list[tuple[int, str]]:
    """Every hint in a module, with its line; what is filled in is written as {}."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and called(node) in ERRORS:
            given = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "hint")]
            found += [(argument.lineno, text) for argument in given for text in texts_of(argument)]
        elif isinstance(node, ast.Call) and called(node) in SPOKEN:
            found += with_commands(node.args)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            names = node.targets if isinstance(node, ast.Assign) else [node.target]
            if all(getattr(target, "id", "").isupper() for target in names):
                found += [(node.lineno, text) for text in texts_of(node.value) if is_part(text)]
        elif isinstance(node, ast.FunctionDef) and node.name.endswith("_hint"):
            returned = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return)]
            found += [(node.lineno, text) for value in returned for text in texts_of(value)]
        elif isinstance(node, ast.FunctionDef) and any(word in node.name for word in OF_FAULTS):
            found += with_commands(faults_in(node))
    return list(dict.fromkeys(found))


def called(node: ast.Call) -> str:
    """The name of the function that is called."""
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def is_part(text: str) -> bool:
    """Whether a constant is something to type, which hints are filled with."""
    return " " in text and (OPTION.search(text) is not None or "pip install" in text)


def faults_in(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """What the function returns, or puts into its list of faults."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and called(node) == "append":
            yield from node.args
        elif isinstance(node, (ast.List, ast.Dict, ast.ListComp, ast.DictComp)):
            yield node
        elif isinstance(node, (ast.Yield, ast.Return)) and node.value is not None:
            yield node.value


def with_commands(nodes: list[ast.expr] | Iterator[ast.expr]) -> list[tuple[int, str]]:
    return [(node.lineno, text) for node in nodes for text in texts_of(node) if COMMAND.search(text)]


def texts_of(node: ast.expr | None) -> list[str]:
    """The texts that an expression may be, with {} in the place of what is filled in."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)]
    if isinstance(node, ast.Dict):
        parts = [*node.keys, *node.values]
    elif isinstance(node, (ast.List, ast.Tuple)):
        parts = node.elts
    elif isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, ast.ListComp):
        parts = [node.elt]
    elif isinstance(node, ast.DictComp):
        parts = [node.key]
    elif isinstance(node, ast.Call) and called(node) == "Contradiction":
        parts = node.args
    elif isinstance(node, ast.Call) and called(node) == "get":
        parts = node.args[1:]
    else:
        parts = []
    return [text for part in parts for text in texts_of(part)]


def to_type() -> set[str]:
    """Every hint with something to type, as "module: text"; what is filled in is written as {}."""
    return {
        f"{path.relative_to(PACKAGE).as_posix()}: {text}"
        for path in modules()
        for _, text in hints_of(path)
        if TYPED.search(text)
    }
