"""Requests of `piflow eval` for tests of what stands behind the command."""

from __future__ import annotations

from pathlib import Path

from piflow_cli.evaluation.request import EvalRequest


def request(**given) -> EvalRequest:
    """What the command asks when nothing but ``given`` is."""
    return EvalRequest(**{"output": Path("o"), "device": "cpu", **given})
