"""What a shell offers for values of options and arguments, from names and folders alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

RUNS = Path("runs")


def complete_teacher(incomplete: str) -> list[str]:
    """Names of presets that begin with what was typed."""
    from piflow_cli.presets.resolve import available

    return beginning(available(), incomplete)


def complete_student(incomplete: str) -> list[str]:
    """Runs in runs/, and files and folders that begin with what was typed; folders end with a slash."""
    typed = Path(incomplete)
    around = typed if incomplete.endswith("/") else typed.parent
    # Unlike pathlib's, this test takes a folder that may not be looked into.
    runs = [str(place) for place in _inside(RUNS) if os.path.isfile(place / "run.yaml")]
    others = [f"{place}/" if place.is_dir() else str(place) for place in _inside(around)]
    return beginning(dict.fromkeys([*runs, *others]), incomplete)


def complete_format(incomplete: str) -> list[str]:
    """Formats of exports."""
    from piflow_cli.exporting.formats import FORMATS

    return beginning(FORMATS, incomplete)


def complete_metrics(incomplete: str) -> list[str]:
    """Metrics, behind the last comma."""
    from piflow_cli.evaluation.metric_kinds import metric_names

    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in beginning(metric_names(), last) if name not in taken]


def complete_limit(incomplete: str) -> list[str]:
    """Numbers of metrics, with the sign that a limit follows."""
    from piflow_cli.evaluation.metric_kinds import metric_numbers

    return [f"{name}=" for name in beginning(metric_numbers(), incomplete)]


def complete_extractor(incomplete: str) -> list[str]:
    """Extractors of features."""
    from piflow_cli.evaluation.extractor_kinds import ROWS

    return beginning((row.forms[0] for row in ROWS.values()), incomplete)


def complete_reference(incomplete: str) -> list[str]:
    """What a student is compared with: words, or folders and files."""
    return beginning(("data", "teacher", "clean-fid:"), incomplete) + (
        complete_student(incomplete) if incomplete else []
    )


def complete_assignment(incomplete: str) -> list[str]:
    """Keys of a preset, with the sign that a value follows."""
    from piflow_cli.presets.keys import known_keys

    return [f"{key}=" for key in beginning(known_keys(), incomplete)]


def beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """Those of ``names`` that begin with what was typed."""
    return [name for name in names if name.startswith(incomplete)]


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(place for place in folder.iterdir() if not place.name.startswith("."))
    except OSError:
        return []
