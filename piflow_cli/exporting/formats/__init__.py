"""Export formats: one file each, and a row of FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..request import ExportFormat


def _format(module: str, name: str) -> Callable[[], ExportFormat]:
    return lambda: getattr(import_module(f".{module}", __package__), name)()


FORMATS: dict[str, Callable[[], ExportFormat]] = {
    "adapter": _format("adapter", "AdapterFormat"),
    "pipeline": _format("pipeline", "PipelineFormat"),
    "merged": _format("merged", "MergedFormat"),
    "piflow-scheduler": _format("piflow_scheduler", "PiflowSchedulerFormat"),
}
"""Every format by the name it has on the command line; its module is imported when it is called for."""
