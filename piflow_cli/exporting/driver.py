"""One export from end to end: written aside, read back, compared, put in place, and published if asked."""

from __future__ import annotations

import gc
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import SILENT
from ..errors import RunError, UsageError, explain
from ..presets.families import shown_a_picture
from ..sampling.request import SampleRequest
from ..sampling.sample import sample
from ..system.devices import choose_device
from ..system.files import replacing_folder
from ..teachers import family_of
from ..teachers.text_to_image import TextToImageFamily
from ..weights.digests import changed_files, write_manifest
from .card import PICTURE_NAME, sizes_told, write_card
from .early import check
from .formats import FORMATS
from .portable import portable, portable_place
from .request import CARD_NAME, ExportFormat, ExportRequest

if TYPE_CHECKING:
    import torch

    from ..console import Console
    from ..students.facts import StudentFacts
    from ..students.open import FoundStudent

GRID_SEEDS = tuple(range(40))


def export(request: ExportRequest, console: Console) -> dict[str, object]:
    """Write a student in another format; returns what was written and how far it is from the student.

    Raises:
        UsageError: the folder is taken, the format cannot do what is asked for, or there is no such student.
        RunError: what was written does not read back as the student; nothing is left of it then.
    """
    check(request)
    found = request.find(console.say)
    facts = found.facts
    if request.prompts and not _is_text_to_image(facts):
        raise UsageError("--prompt: the student is told class labels, not text", "leave --prompt out")
    if request.prompts and shown_a_picture(facts.family):
        raise UsageError(
            "--prompt: the student edits a picture, and the card has none to show it", "leave --prompt out"
        )
    writer = FORMATS[request.format].open()
    writer.check(facts, request)
    device = choose_device(request.device)
    # Made before the weights are read, which takes minutes: a folder that cannot be written to is known at once.
    with replacing_folder(request.output) as folder:
        report = _written(found, writer, folder, request, device, console)
        _add_picture(folder, facts, request, console)
        place = portable_place(str(request.output.absolute())) if request.push_to_hub is None else request.push_to_hub
        told = portable(facts)
        kind, snippet = FORMATS[request.format], writer.snippet(told, place, sizes_told(found))
        write_card(folder, told, Path(place).name, snippet, report, kind, found.folder, request.teacher)
        list_files(folder)
    report = {
        "output": request.output,
        **report,
        "files": [path for path in sorted(request.output.rglob("*")) if path.is_file()],
    }
    if request.push_to_hub is not None:
        report["pushed"] = _push(request, request.push_to_hub, console)
    return report


def _written(
    found: FoundStudent,
    writer: ExportFormat,
    folder: Path,
    request: ExportRequest,
    device: torch.device,
    console: Console,
) -> dict[str, object]:
    """Write the student into ``folder`` and compare; returns the report so far.

    Nothing of the student stays in memory.
    """
    student = found.load(dtype=None, as_stored=True)
    student.model.to(device)
    console.say(f"writing {request.format}")
    report = writer.write(student, folder, request, console)
    console.say("reading it back")
    difference = _verified(writer, writer.verify(student, folder, request), request)
    return {"format": request.format, **_asked(request), **report, "largest_difference_from_the_student": difference}


def _is_text_to_image(facts: StudentFacts) -> bool:
    return isinstance(family_of(facts.family), TextToImageFamily)


def _asked(request: ExportRequest) -> dict[str, object]:
    asked = {"dtype": request.dtype, "quantise": request.quantise}
    return {name: value for name, value in asked.items() if value is not None}


def _verified(writer: ExportFormat, difference: float, request: ExportRequest) -> float:
    # NaN is no agreement either.
    if not difference <= writer.tolerance(request):
        raise RunError(
            f"what was written is not the student: policies differ by {difference:.2g}, more than"
            f" {writer.tolerance(request):.2g} of the largest velocity; {request.output} was not made",
            "leave --dtype out; if it stays, report it with piflow --version --json",
        )
    return difference


def _add_picture(folder: Path, facts: StudentFacts, request: ExportRequest, console: Console) -> None:
    """Put a grid of samples beside the card, where that takes seconds or was asked for."""
    text_to_image = _is_text_to_image(facts)
    if not request.prompts and (text_to_image or facts.vae):
        return
    console.say("making samples for the card")
    # Reference cycles keep the exported student alive, and another one on its base is about to be loaded.
    gc.collect()
    options: dict[str, Any] = {
        "prompts": request.prompts,
        "seeds": (0,) if text_to_image else GRID_SEEDS,
        "metadata": False,
        "device": request.device,
    }
    # The written adapter matches its checksums, even where the one it was made from does not.
    options |= {"student": str(folder)} if request.changed else {"student": request.student}
    options |= {} if request.changed else {"subfolder": request.subfolder}
    with tempfile.TemporaryDirectory() as pictures:
        asked = SampleRequest(teacher=request.teacher, base=request.base, output=Path(pictures), **options)
        made = sample(asked, SILENT)
        shutil.copyfile(made["grid"], folder / PICTURE_NAME)


def list_files(folder: Path) -> None:
    """Write the digests of all files but the card, and read the files again; raises RunError where one differs.

    The card is left out since people edit it.
    """
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    write_manifest(folder, [name for name in names if name != CARD_NAME])
    if changed := changed_files(folder):
        raise RunError(
            f"what was written does not read back: {changed[0]}", "look after the disk, then run the same command again"
        )


def _push(request: ExportRequest, repository: str, console: Console) -> str:
    """Upload the folder to ``repository``; returns its address on the Hub."""
    import huggingface_hub

    console.say(f"uploading to {repository}")
    try:
        api = huggingface_hub.HfApi()
        place = api.create_repo(repository, private=request.private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=request.output,
            commit_message=f"piflow export --format {request.format}",
        )
    except Exception as error:
        if (known := explain(error)) is None:
            raise
        raise RunError(f"{request.output} is written, and not pushed: {known.message}", known.hint) from error
    return str(place)
