"""Findings as lines for a person, and as JSON for a program."""

from __future__ import annotations

from collections.abc import Sequence

from .examine import Examined


def record(rows: Sequence[Examined]) -> dict[str, object]:
    """What --json prints: whether piflow can train here, on what, and each check."""
    return {"trains": fault_of(rows) is None, "device": _device(rows), "checks": [row.as_row() for row in rows]}


def fault_of(rows: Sequence[Examined]) -> str | None:
    """Why piflow cannot train here, in a line; None where it can."""
    broken = [row.check.name for row in rows if row.finding.state == "broken"]
    if broken:
        return f"not all that is there works: {', '.join(broken)}"
    return "no step of training was made" if _device(rows) is None else None


def _device(rows: Sequence[Examined]) -> object:
    """The device that a step was made on; None where none was."""
    return next((row.finding.facts.get("device") for row in rows if row.check.name == "step"), None)


def text(rows: Sequence[Examined]) -> str:
    """A line for each check, with what to type below it, and a sentence at the end."""
    width = max(len(row.check.name) for row in rows)
    lines = [line for row in rows for line in _lines(row, width)]
    return "\n".join([*lines, "", _sentence(rows)])


def _lines(row: Examined, width: int) -> list[str]:
    found = row.finding
    says = f"{found.says} ({row.check.purpose})" if found.state == "missing" else found.says
    lines = [f"{found.state:7}  {row.check.name:{width}}  {says}"]
    return lines if found.hint is None else [*lines, f"{'':7}  {'':{width}}  → {found.hint}"]


def _sentence(rows: Sequence[Examined]) -> str:
    if fault_of(rows) is not None:
        return "piflow cannot train here as it is."
    place = "the GPU" if str(_device(rows)).startswith("cuda") else "the CPU"
    return f"piflow can train here, on {place}."
