"""One readable file from several of our modules: the wanted definitions, and those that they use."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PACKAGE = Path(__file__).parents[2]
_CROSS_REFERENCE = re.compile(r":\w+:`~?(?:piflow_cli\.)?(?:\w+\.)*(\w+)`")


@dataclass(frozen=True)
class Definition:
    """A statement at the top of a module ("" for none): its ``text`` with comments above it, and its names."""

    module: str
    name: str
    text: str
    uses: frozenset[str]


def assemble(modules: Sequence[str | Definition], wanted: Sequence[str]) -> str:
    """The definitions ``wanted`` and all that they use, from ``modules``, in order and without imports among them.

    Args:
        modules: files, relative to the package, each before those that use it; a definition stands for itself.
        wanted: names of classes and functions.

    Raises:
        ValueError: a name is defined twice, or two of them in one assignment.
    """
    definitions: dict[str, Definition] = {}
    imports: dict[str, tuple[str, str]] = {}
    for module in modules:
        if isinstance(module, Definition):
            definitions[module.name] = module
            continue
        source = (PACKAGE / module).read_text(encoding="utf-8")
        for name, origin in _imports(source):
            imports[name] = origin
        for definition in _definitions(module, source):
            if definition.name in definitions:
                raise ValueError(
                    f"{definition.name} is defined in {definitions[definition.name].module} and in {module}"
                )
            definitions[definition.name] = definition
    needed = _reachable(definitions, wanted)
    kept = [definition for name, definition in definitions.items() if name in needed]
    used = {name for definition in kept for name in definition.uses}
    parts = [_import_block({imports[name] for name in used & imports.keys()})]
    previous = None
    for definition in kept:
        origin = f"# From piflow_cli/{definition.module}\n\n\n" if definition.module not in ("", previous) else ""
        parts.append(origin + _CROSS_REFERENCE.sub(r"``\1``", definition.text))
        previous = definition.module
    return _joined(parts)


def _imports(source: str) -> Iterable[tuple[str, tuple[str, str]]]:
    """Names that a module imports from other packages: (name, (module it comes from or "", what is imported))."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name if alias.asname is None else alias.asname, ("", ast.unparse(alias))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module != "__future__":
            for alias in node.names:
                yield alias.name if alias.asname is None else alias.asname, (node.module, ast.unparse(alias))


def _definitions(module: str, source: str) -> Iterable[Definition]:
    lines = source.splitlines()
    for node in ast.parse(source).body:
        names = _defined(node)
        if not names:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))]) - 1
        while first > 0 and lines[first - 1].startswith("#"):
            first -= 1
        uses = frozenset(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
        for name in names:
            yield Definition(module, name, "\n".join(lines[first : node.end_lineno]), uses)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    if len(names) < len(targets):
        raise ValueError(f"one name at a time: {ast.unparse(node)}")
    return names


def _reachable(definitions: dict[str, Definition], wanted: Sequence[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += sorted(definitions[name].uses & definitions.keys())
    return found


def _import_block(imported: set[tuple[str, str]]) -> str:
    """The future import, those of the standard library, and the others, each sorted as linters have it."""
    lines: dict[bool, list[str]] = {True: [], False: []}
    for what in sorted(what for module, what in imported if not module):
        lines[what in sys.stdlib_module_names].append(f"import {what}")
    for module in sorted({module for module, _ in imported if module}):
        names = ", ".join(sorted((what for origin, what in imported if origin == module), key=_import_order))
        lines[module.partition(".")[0] in sys.stdlib_module_names].append(f"from {module} import {names}")
    blocks = [["from __future__ import annotations"], lines[True], lines[False]]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _import_order(name: str) -> tuple[int, str]:
    """Constants before classes before functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _joined(parts: Sequence[str]) -> str:
    """Parts two lines apart, and constants that follow each other on lines that do."""
    text = parts[0]
    for before, part in pairwise(parts):
        both = all(re.fullmatch(r"[\w.]+(: [^=\n]+)? = .*", given) for given in (before.rpartition("\n")[2], part))
        text += ("\n" if both else "\n\n\n") + part
    return text + "\n"
