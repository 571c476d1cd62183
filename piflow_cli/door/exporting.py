"""Export students to the formats of other programs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..console import SILENT, Console
from ..exporting.driver import export as run
from ..exporting.request import ExportRequest, usual_folder
from .arguments import Place, explained, text, texts


@explained
def export(
    student: Place,
    format: str,
    output: Place | None = None,
    *,
    dtype: str | None = None,
    rank: int | None = None,
    quantise: str | None = None,
    with_base: bool = ExportRequest.with_base,
    teacher: Place | None = None,
    base: Place | None = None,
    subfolder: str | None = None,
    prompts: str | Iterable[str] = (),
    changed: bool = ExportRequest.changed,
    push_to_hub: str | None = None,
    private: bool = ExportRequest.private,
    device: str = ExportRequest.device,
    overwrite: bool = ExportRequest.overwrite,
    console: Console = SILENT,
) -> Path:
    """Write a student where others can load it, as `piflow export` does; what was written is read back and compared.

    Args:
        student: as :func:`load_student` takes it.
        format: adapter, pipeline, merged or piflow-scheduler.
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
        teacher, base, subfolder, device: as in :func:`sample`.

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
    folder = usual_folder(named, subfolder, format) if output is None else Path(output)
    request = ExportRequest(
        student=named, format=format, output=folder, dtype=dtype, rank=rank, quantise=quantise, with_base=with_base,
        teacher=text(teacher), base=text(base), subfolder=subfolder, prompts=texts(prompts), changed=changed,
        push_to_hub=push_to_hub, private=private, device=device, overwrite=overwrite,
    )  # fmt: skip
    run(request, console)
    return folder
