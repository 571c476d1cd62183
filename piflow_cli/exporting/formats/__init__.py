"""Export formats: one file each, and a row of FORMATS."""

from __future__ import annotations

from ..request import FormatKind

FORMATS = {
    row.name: row
    for row in (
        FormatKind("adapter", f"{__name__}.adapter:AdapterFormat", relation="adapter", mends=True),
        FormatKind("pipeline", f"{__name__}.pipeline:PipelineFormat"),
        FormatKind("merged", f"{__name__}.merged:MergedFormat"),
        FormatKind("piflow-scheduler", f"{__name__}.piflow_scheduler:PiflowSchedulerFormat", any_steps=False),
    )
}
