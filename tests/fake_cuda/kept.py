"""Results that are kept beside those of the benchmarks, row by row."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

DEVICE = "none: fake tensors, of a GPU of compute capability 9.0"


def keep(path: Path, benchmark: str, rows: Iterable[dict[str, Any]], key: str, order: Iterable[str]) -> None:
    """Write ``rows`` into the results at ``path``, in the place of those with the same ``key``; others go as ``order``.

    Rows whose key is not in ``order`` any more are left out.
    """
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from common import machine, write_json

    old = json.loads(path.read_text())["results"] if path.exists() else []
    found = {row[key]: row for row in (*old, *rows)}
    facts = machine(torch.device("cpu")) | {"device": DEVICE}
    results = [found[name] for name in order if name in found]
    write_json(path, {"benchmark": benchmark, **facts, "results": results})
