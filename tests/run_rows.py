"""What a run leaves in metrics.jsonl, and the part of it that two runs of one course have in common."""

from __future__ import annotations

import json
from pathlib import Path

# They depend on what else the machine does.
MEASURED = ("samples_per_second", "peak_memory", "seconds")


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def course_of(folder: Path) -> list[dict]:
    """The rows of a run without what was measured: bit for bit the same in every run of its course."""
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows_of(folder)]
