"""`piflow cache`: what the cache holds, and removing it."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from piflow_cli.commands.completions import beginning
from piflow_cli.commands.options import DATA, Json, Quiet, examples, setting, switch
from piflow_cli.console import Console, format_pairs, format_table
from piflow_cli.errors import UsageError
from piflow_cli.weights.cache_kinds import KEPT_DAYS, ROWS
from piflow_cli.wording import Bytes, shortened

if TYPE_CHECKING:
    from piflow_cli.weights.cache_folder import CacheEntry

EXAMPLES = examples(
    ("piflow cache", "what it holds, by kind"),
    ("piflow cache prune --days 7", "what was not used for a week, or is damaged"),
    ("piflow cache clear states --yes", "one kind, without a question"),
    closing="What another process uses stays, and what is not of piflow. The Hub has a cache of its own: hf cache",
)
Action = Annotated[
    Literal["show", "prune", "clear"],
    typer.Argument(
        metavar="ACTION",
        help="show; prune: remove what is old or damaged; clear: remove all, or one kind.",
    ),
]
Kind = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND",
        help=f"One of {', '.join(ROWS)}.",
        autocompletion=lambda incomplete: beginning(ROWS, incomplete),
        show_default=False,
    ),
]
Days = Annotated[
    float | None,
    typer.Option(
        "--days",
        metavar="N",
        min=0,
        help=f"For prune: days without use; default: {KEPT_DAYS}.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
Yes = Annotated[bool, switch("--yes", "For clear: do not ask.", DATA)]
CacheDir = Annotated[Path | None, setting("--cache", "The folder of the cache; default: ~/.cache/piflow.", DATA, "DIR")]


def cache(
    action: Action = "show",
    kind: Kind = None,
    days: Days = None,
    yes: Yes = False,
    place: CacheDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what the cache holds, by kind, or remove some of it: what is removed is made anew when it is needed."""
    console = Console(json=json, quiet=quiet)
    _check(action, kind, days, yes)
    from piflow_cli.system.files import user_cache
    from piflow_cli.weights.cache_folder import entries_in

    root = user_cache(place)
    entries = [entry for entry in entries_in(root) if kind in (None, entry.kind.name)]
    if action == "show":
        rows = [_totals(name, entries) for name in ROWS if kind in (None, name)]
        total = Bytes(sum(entry.bytes for entry in entries))
        console.result({"folder": root, "kinds": rows}, f"{_table(rows)}\n\n{total} in {root}")
    elif action == "prune":
        _remove(_old_or_damaged(entries, KEPT_DAYS if days is None else days, console), root, console)
    else:
        if yes or not entries or _is_wanted(root, entries, json):
            _remove(entries, root, console)
        else:
            console.say("Nothing was removed.")


def _check(action: str, kind: str | None, days: float | None, yes: bool) -> None:
    if kind is not None and kind not in ROWS:
        near = difflib.get_close_matches(kind, ROWS, n=len(ROWS), cutoff=0)
        raise UsageError(f"there is no kind {shortened(kind)} in the cache", f"choose one of {', '.join(near)}")
    if days is not None and action != "prune":
        raise UsageError("--days is for prune", "leave --days out")
    if yes and action != "clear":
        raise UsageError("--yes is for clear", "leave --yes out")


def _totals(name: str, entries: Iterable[CacheEntry]) -> dict[str, object]:
    found = [entry for entry in entries if entry.kind.name == name]
    return {
        "kind": name,
        "what": ROWS[name].what,
        "entries": len(found),
        "bytes": Bytes(sum(entry.bytes for entry in found)),
        "last_used": max((entry.used for entry in found), default=None),
    }


def _table(rows: Sequence[dict[str, object]]) -> str:
    shown = [{**row, "size": row["bytes"], "used": _day(row["last_used"])} for row in rows]
    return format_table(shown, ("kind", "entries", "size", "used", "what"))


def _day(moment: object) -> str | None:
    return time.strftime("%Y-%m-%d", time.localtime(moment)) if isinstance(moment, float) else None


def _old_or_damaged(entries: Sequence[CacheEntry], days: float, console: Console) -> list[CacheEntry]:
    from piflow_cli.weights.cache_folder import is_damaged, is_unused

    chosen = []
    with console.progress(len(entries), description="checking") as bar:
        for entry in entries:
            if is_unused(entry, days) or is_damaged(entry):
                chosen.append(entry)
            bar.update()
    return chosen


def _is_wanted(root: Path, entries: Sequence[CacheEntry], json: bool) -> bool:
    """The answer to a question; raises UsageError where nobody can answer it."""
    if json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nobody is there to be asked whether all of that is to go", "add --yes")
    size = Bytes(sum(entry.bytes for entry in entries))
    return typer.confirm(f"Remove {len(entries)} entries, {size}, from {root}?", err=True)


def _remove(entries: Sequence[CacheEntry], root: Path, console: Console) -> None:
    from piflow_cli.weights.cache_folder import remove

    with console.progress(len(entries), description="removing") as bar:
        told = remove(entries, root, lambda entry: bar.update())
    for path, reason in told.stayed.items():
        console.warn(f"{path} stays: {reason}")
    shown = {"folder": root, "removed": len(told.removed), "bytes": Bytes(told.bytes), "stayed": len(told.stayed)}
    console.result(
        {**shown, "stayed": {str(path): reason for path, reason in told.stayed.items()}}, format_pairs(shown)
    )
