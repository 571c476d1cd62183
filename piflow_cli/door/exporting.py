"""Export students to the formats of other programs."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import Unpack

from ..console import SILENT
from ..exporting.driver import export as run
from ..exporting.request import ExportRequest, usual_folder
from ..system.outputs import output_folder
from .arguments import Device, FileOrFolder, Source, Speaker, Word
from .calls import public, request_of
from .options import ExportOptions


@public(ExportOptions, ExportRequest)
def export(
    student: Source,
    format: Word,
    output: FileOrFolder | None = None,
    *,
    device: Device = ExportRequest.device,
    console: Speaker = SILENT,
    **options: Unpack[ExportOptions],
) -> Path:
    """Write a student where others can load it, as `piflow export` does; what was written is read back and compared.

    Args:
        student: as ``load_student`` takes it.
        format: one of those that `piflow export --help` lists.
        output: folder of the export; default: exports/<name>-<format>.
        dtype: precision of the weights: bf16, fp16 or fp32; default: as stored.
        rank: largest rank of the adapters; default: as stored.
        quantise: precision of a merged base: fp8, int8 or nf4.
        with_base: copy the base into a pipeline, or name it.
        prompts: prompts of the samples on a text-to-image student's card.
        changed: accept an adapter whose checksums differ.
        push_to_hub: repository OWNER/NAME that the folder is uploaded to, too.
        private: make the repository private.
        overwrite: replace an earlier export in that folder.
        teacher, base, subfolder, device: as in ``sample``.

    Returns the folder.

    Raises:
        UsageError: the folder is taken, the format cannot do what is asked for, or there is no such student.
        RunError: what was written does not read back as the student; nothing is left of it then.

    >>> import piflow_cli as piflow
    >>> folder = piflow.export("runs/short", "adapter", "exports/short")
    >>> (folder / "diffusion_pytorch_model.safetensors").is_file()
    True
    """
    named = str(student)
    folder = output_folder(
        None if output is None else Path(output),
        usual_folder(named, options.get("subfolder"), format),
        options.get("overwrite", False),
    )
    run(request_of(ExportRequest, options, student=named, format=format, output=folder, device=device), console)
    return folder
