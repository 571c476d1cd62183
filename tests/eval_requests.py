"""Requests of `piflow eval` for tests of what stands behind the command."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from piflow_cli.evaluation.request import EvalRequest


def request(**given) -> EvalRequest:
    """What the command asks when nothing but ``given`` is."""
    empty = {
        "students": (),
        "extractors": (),
        "steps": (),
        "teacher_steps": (),
        "save_images": False,
        "trust_weights": False,
        "output": Path("o"),
        "device": "cpu",
    }
    return EvalRequest(**{**dict.fromkeys(field.name for field in fields(EvalRequest)), **empty, **given})
