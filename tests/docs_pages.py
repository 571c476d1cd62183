"""The pages of docs/ that are made from the program itself: `python tests/docs_pages.py` writes them.

``settings.md`` comes from the schema of presets, ``commands.md`` from the Typer app, ``house.md`` from the files of the
package, the tables of ``results.md``, ``gpu.md``, ``cost.md`` and ``claims.md`` from the files under
tests/benchmarks/results, and the programs in ``adding.md`` and ``hundred_lines.md`` from their files.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from claims_page import claims
from house_page import house
from result_tables import costs, on_gpu, results, table

from piflow_cli.app import program
from piflow_cli.presets import bounds
from piflow_cli.presets.described import Setting, described, sections

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "pages"
MADE = "Made by `python tests/docs_pages.py`; a test compares this page with the program."


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


MADE_IN = {
    "results.md": results,
    "gpu.md": on_gpu,
    "cost.md": costs,
    "claims.md": claims,
    "adding.md": programs,
    "hundred_lines.md": programs,
}


@cache
def pages() -> dict[Path, str]:
    """What each made page holds."""
    kept = {PAGES / name: make((PAGES / name).read_text(encoding="utf-8")) for name, make in MADE_IN.items()}
    made = {"settings.md": settings(), "commands.md": commands(), "house.md": house(MADE)}
    return {PAGES / name: page for name, page in made.items()} | kept


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
