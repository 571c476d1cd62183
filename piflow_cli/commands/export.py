"""`piflow export`: students in the formats of other programs."""

from __future__ import annotations

from piflow_cli.commands.export_options import (
    AcceptChanged,
    CardPrompts,
    Dtype,
    Format,
    NoBase,
    Output,
    Private,
    PushToHub,
    Quantise,
    Rank,
    Student,
)
from piflow_cli.commands.options import Base, Device, Json, Overwrite, Quiet, Subfolder, Teacher, examples
from piflow_cli.console import Console, format_pairs

EXAMPLES = examples(
    ("piflow export runs/a --format adapter --dtype bf16", "as it is published"),
    ("piflow export runs/a --format adapter --rank 64", "a quarter of the rank"),
    ("piflow export runs/a --format pipeline", "runs without piflow"),
    ("piflow export me/a --subfolder b --format merged", "from the Hub"),
    closing="What was written is read back and compared with the student; if it differs, nothing is left of it.",
)


def export(
    student: Student,
    format: Format,
    dtype: Dtype = None,
    rank: Rank = None,
    quantise: Quantise = None,
    no_base: NoBase = False,
    subfolder: Subfolder = None,
    teacher: Teacher = None,
    base: Base = None,
    device: Device = "auto",
    output: Output = None,
    overwrite: Overwrite = False,
    prompt: CardPrompts = None,
    accept_changed: AcceptChanged = False,
    push_to_hub: PushToHub = None,
    private: Private = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a student where others can load it: ComfyUI, diffusers, the Hub.

    Every export has a model card, README.md.
    """
    console = Console(json=json, quiet=quiet)
    from piflow_cli.exporting.early import check
    from piflow_cli.exporting.request import ExportRequest, usual_folder
    from piflow_cli.system.outputs import output_folder

    request = ExportRequest(
        student=student,
        format=format,
        output=output_folder(output, usual_folder(student, subfolder, format), overwrite),
        dtype=dtype,
        rank=rank,
        base=base,
        with_base=not no_base,
        quantise=quantise,
        overwrite=overwrite,
        push_to_hub=push_to_hub,
        private=private,
        subfolder=subfolder,
        teacher=teacher,
        device=device,
        prompts=() if prompt is None else tuple(prompt),
        changed=accept_changed,
    )
    check(request)
    # Takes seconds to import.
    from piflow_cli.exporting.driver import export as run_export

    with console.listening():
        result = run_export(request, console)
    console.result(result, format_pairs(result))
