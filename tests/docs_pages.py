"""The pages of docs/ that are made from the program itself: `python tests/docs_pages.py` writes them.

``settings.md`` comes from the schema of presets, ``commands.md`` from the Typer app, ``house.md`` from the files of the
package, the tables of ``results.md`` from the files under tests/benchmarks/results, and the programs in ``adding.md``
and ``hundred_lines.md`` from their files.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from house_page import house

from piflow_cli.app import program
from piflow_cli.presets import bounds
from piflow_cli.presets.described import Setting, described, sections

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "pages"
RESULTS = ROOT / "tests" / "benchmarks" / "results"
MADE = "Made by `python tests/docs_pages.py`; a test compares this page with the program."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what Markdown would read in cells is escaped."""
    cells = [
        header,
        ["---"] * len(header),
        *([cell.replace("|", "\\|").replace("<", "\\<") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


# Settings


def settings() -> str:
    """Every key of a preset, and why numbers have bounds."""
    keys = list(described())
    parts = [
        "# Settings",
        f"{MADE}\n[Recipes](recipe.md) has the value of every key in every shipped preset.",
        "A preset is a YAML file with these sections. Any key can be set on the command line with\n"
        "`--set section.key=value`, or in a file that `--config` names. [Configuration](configuration.md) says which\n"
        "of them wins. `null` means that nothing is given.",
        "## Keys outside sections",
        _keys(one for one in keys if "." not in one.key),
    ]
    for name, about in sections().items():
        parts += [f"## {name}", _paragraphs(about), _keys(one for one in keys if one.key.startswith(f"{name}."))]
    reasons = [[f"`{one.key}`", one.bounds, one.reason] for one in keys if one.reason]
    parts += ["## Why numbers have bounds", _paragraphs(str(bounds.__doc__)), table(["key", "bounds", "why"], reasons)]
    return "\n\n".join(parts) + "\n"


def _keys(of: Iterable[Setting]) -> str:
    rows = [
        [
            f"`{one.key}`",
            ", ".join(filter(None, (one.type, one.bounds))),
            "required" if one.default is None else f"`{one.default}`",
            one.description,
        ]
        for one in of
    ]
    return table(["key", "value", "default", "meaning"], rows)


# Commands


def commands() -> str:
    """Every command with its options by panel, and the examples of its help."""
    root = program()
    parts = [
        "# Commands",
        f"{MADE}\nThe same is on the screen: `piflow COMMAND --help`.",
        "## piflow",
        str(root.help),
        _options(root),
    ]
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        parts += [f"## piflow {name}", _paragraphs(command.help), _block(command.epilog), *_panels(command)]
    return "\n\n".join(parts) + "\n"


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _block(epilog: str) -> str:
    """The examples of a help as a block of commands, and the sentence below them."""
    rows = re.findall(r"\[cyan\](.*?)\[/\]\s+\[dim\](.*?)\[/\]", epilog)
    closing = epilog.rpartition("\n\n")[2]
    lines = [
        f"{command.ljust(max(len(row[0]) for row in rows))}  # {what}"
        for command, what in ((a.rstrip(), b) for a, b in rows)
    ]
    return "\n".join(['```bash title="As in the help"', *lines, "```"]) + f"\n\n{closing}"


def _panels(command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    if arguments:
        yield table(["argument", "meaning"], [[f"`{one.metavar}`", one.help] for one in arguments])
    for panel in dict.fromkeys(getattr(one, "rich_help_panel", None) for one in command.params if one not in arguments):
        yield f"### {command.name}: {panel}"
        yield _options(command, panel)


def _options(command: Any, panel: str | None = None) -> str:
    context = command.make_context(command.name, [], resilient_parsing=True)
    chosen = [
        one
        for one in command.params
        # Typer's own options of completion have its words.
        if one.param_type_name == "option" and panel in (None, one.rich_help_panel) and "completion" not in one.name
    ]
    return table(["option", "value", "meaning"], [[_names(one), _value(one, context), _meaning(one)] for one in chosen])


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _value(option: Any, context: Any) -> str:
    """What the help writes behind the names of an option: a word for its value, or the choices."""
    if option.is_flag:
        return ""
    written = option.get_help_record(context)[0].rpartition("--")[2].partition(" ")[2]
    return ", ".join(f"`{one}`" for one in (written.strip("[]<>") if written[0] in "[<" else written).split("|"))


def _meaning(option: Any) -> str:
    told = option.default is None or option.is_flag or "default" in option.help
    return option.help if told else f"{option.help} Default: `{option.default}`."


# Tables of results


def digits_table() -> str:
    """Distances of the digits students: two files, of 200 and of 600 iterations."""
    rows = _rows("digits-cpu.json", "") + [
        row for row in _rows("digits-cpu-600-iterations.json", ", 600 iterations") if row[0].startswith("student")
    ]
    return table(
        ["model", "evaluations", "to the data", "to the teacher's 128 steps", "squared distance, same noise"], rows
    )


def _rows(file: str, more: str) -> list[list[str]]:
    return [
        [
            row["model"] + more,
            str(row["evaluations"]),
            *(f"{row[key]:.2f}" for key in ("to_data", "to_teacher")),
            f"{row['squared_distance']:.3f}",
        ]
        for row in json.loads((RESULTS / file).read_text())["rows"]
    ]


def rollouts_table() -> str:
    """Fused rollouts against the plain loop: how many times faster, and the errors of both against float64."""
    modes = {"forward": "rollout", "window forward and backward": "micro-window, forward and backward"}
    rows = [
        [
            row["case"],
            str(row["parts"]),
            str(row["substeps"]),
            modes[row["mode"]],
            f"{row['ratio']:.1f} times",
            f"{row['reference_error']:.1e}",
            f"{row['fused_error']:.1e}",
        ]
        for file in ("rollout-flux-cpu.json", "rollout-imagenet-cpu.json")
        for row in json.loads((RESULTS / file).read_text())["results"]
        if row["mode"] in modes
    ]
    header = ["shape", "parts", "substeps", "what", "faster", "error of the loop", "error of the fused path"]
    return table(header, rows)


def step_table() -> str:
    """What an iteration on digits costs beside its networks."""
    rows = json.loads((RESULTS / "step-cpu.json").read_text())["rows"]
    return table(
        ["work", "milliseconds", "ratio"],
        [[row["work"], f"{row['milliseconds']:.0f}", f"{row['ratio']:.2f}"] for row in rows],
    )


def kernels_table() -> str:
    """What a GM kernel issues a substep on Hopper with bf16 parameters, as it was and as it is."""
    found = json.loads((RESULTS / "kernel-code.json").read_text())
    rows = [
        [
            row["shape"],
            row["kernel"],
            when,
            str(row["threads_a_position"] if when == "0.2.0" else prod(row["lanes"])),
            str(row["registers"]),
            str(row["spilled"]),
            *(" + ".join(str(loop[key]) for loop in row["loops"]) for key in ("instructions", "shuffles", "barriers")),
        ]
        for pair in zip(*(_hopper(found[part]) for part in ("before", "results")), strict=True)
        for when, row in zip(("0.2.0", "now"), pair, strict=True)
    ]
    counted = ["registers", "bytes spilled", "instructions", "shuffles", "barriers"]
    return table(["shape", "kernel", "version", "threads a position", *counted], rows)


def _hopper(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["capability"] == 90 and row["dtype"] == "bf16"]


def roofline_table() -> str:
    """What a launch is expected to take, from its instructions and bytes."""
    rows = [
        [
            row["work"],
            row["kernel"],
            row["gpu"],
            str(row["substeps"]),
            f"{row['bytes'] / 1e6:,.0f} MB",
            f"{row['multiply_adds'] / 1e9:,.2f} G",
            row["bound"],
            f"{row['least_microseconds']:,.0f} to {row['most_microseconds']:,.0f} µs",
        ]
        for row in json.loads((RESULTS / "kernel-code.json").read_text())["roofline"]
    ]
    return table(["launch", "kernel", "GPU", "substeps", "moved", "multiply-adds", "bound by", "expected"], rows)


TABLES = {
    "digits": digits_table,
    "rollouts": rollouts_table,
    "kernels": kernels_table,
    "roofline": roofline_table,
    "step": step_table,
}


def results(page: str) -> str:
    """``page`` with every table between <!-- table: NAME --> and <!-- end --> made anew."""
    for name, make in TABLES.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(start)
        assert found and end in rest, f"results.md has no place for the table {name}"
        page = before + start + "\n" + make() + "\n\n" + end + rest.partition(end)[2]
    return page


# Programs


SHOWN = re.compile(r"(<!-- file: (\S+) -->\n\n```[^\n]*\n).*?(^```\n\n<!-- end -->)", re.MULTILINE | re.DOTALL)


def programs(page: str) -> str:
    """``page`` with every fence between <!-- file: PATH --> and <!-- end --> holding that file of the repository."""

    def fence(found: re.Match[str]) -> str:
        text = (ROOT / found[2]).read_text(encoding="utf-8")
        assert "```" not in text, f"{found[2]} would end its fence"
        return found[1] + text + found[3]

    assert SHOWN.search(page), "the page has no place for a file"
    return SHOWN.sub(fence, page)


MADE_IN = {"results.md": results, "adding.md": programs, "hundred_lines.md": programs}


@cache
def pages() -> dict[Path, str]:
    """What each made page holds."""
    kept = {PAGES / name: make((PAGES / name).read_text(encoding="utf-8")) for name, make in MADE_IN.items()}
    made = {"settings.md": settings(), "commands.md": commands(), "house.md": house(MADE)}
    return {PAGES / name: page for name, page in made.items()} | kept


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
