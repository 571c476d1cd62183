"""The parts of a pipeline besides network and scheduler (text encoders, tokenizers, VAE): copied or named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..students.student import Student
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.latents import vae_folder
from ..teachers.text_to_image import TextToImageFamily
from ..weights.locate import ENCODERS, locate
from .copies import LIBRARIES, copy_part, is_part, read_index
from .network import SCHEDULER_FOLDER, base_entry, write_json
from .standalone.code import (
    CLASS_CONDITIONAL,
    COMPONENT,
    class_conditional_code,
    component_code,
)
from .standalone.component import REFERENCE

if TYPE_CHECKING:
    from ..console import Console
    from .request import ExportRequest

INDEX_NAME = "model_index.json"
ABSENT = (None, None)


def text_parts(student: Student, folder: Path, request: ExportRequest, console: Console) -> dict[str, Any]:
    """Put the other parts of the student's base into ``folder``; returns their index entries, and the pipeline's class.

    A base that is no whole pipeline leaves them out, with a warning.
    """
    family = student.family
    assert isinstance(family, TextToImageFamily), "a student is told a text or a class"
    base, revision = student.facts.base_at(request.base)
    source = locate(base, revision, ENCODERS)
    own = (*family.own_parts, SCHEDULER_FOLDER)
    names = [name for name in family.pipeline_class._get_signature_keys(family.pipeline_class)[0] if name not in own]
    entries: dict[str, Any] = {
        "_class_name": family.pipeline_name,
        **dict.fromkeys(names, ABSENT),
        # A base that is no whole pipeline does not state them.
        **family.pipeline_options,
    }
    if not (source / INDEX_NAME).is_file():
        console.warn(
            f"{base} is no whole pipeline: text encoders and VAE must be given to from_pretrained, as"
            f" {', '.join(names)}"
        )
        return entries
    index = read_index(source / INDEX_NAME)
    for name, value in index.items():
        # What the family tells its pipeline holds, whatever the base tells its own.
        if name in own or name in family.pipeline_options or name.startswith("_"):
            continue
        if not is_part(value) or value[0] is None:
            entries[name] = value
        elif request.with_base and not (source / name).is_dir():
            entries[name] = ABSENT
        elif request.with_base:
            _copy(source / name, folder / name, source, console)
            entries[name] = value
        else:
            entries[name] = _name_part(folder / name, value, base_entry(base, revision, name))
    missing = [
        name
        for name, value in entries.items()
        if name in names and value[0] is None and name not in family.pipeline_class._optional_components
    ]
    if missing:
        console.warn(f"{base} lacks parts, which must be given to from_pretrained: {', '.join(missing)}")
    return entries


def _copy(source: Path, folder: Path, base: Path, console: Console) -> None:
    if left := copy_part(source, folder, base):
        files = ", ".join(f"{source.name}/{name}" for name in left)
        console.warn(f"left out of the export, since they are no data of {' or '.join(LIBRARIES)}: {files}")


def _name_part(folder: Path, kind: list[str], place: dict[str, Any]) -> list[str]:
    folder.mkdir()
    (folder / f"{COMPONENT}.py").write_text(component_code(), encoding="utf-8")
    write_json(folder / REFERENCE, {"library": kind[0], "class": kind[1], **place})
    return [COMPONENT, "Elsewhere"]


def class_parts(student: Student, folder: Path, request: ExportRequest, console: Console) -> dict[str, Any]:
    """Put the class-conditional pipeline, and a VAE for latents, into ``folder``; returns the index entries."""
    (folder / f"{CLASS_CONDITIONAL}.py").write_text(class_conditional_code(), encoding="utf-8")
    vae: Any = ABSENT
    if student.facts.vae:
        place = vae_folder(student.facts.vae)
        _copy(place, folder / "vae", place, console)
        vae = ("diffusers", "AutoencoderKL")
    family = student.family
    assert isinstance(family, ClassConditionalFamily), "a student is told a text or a class"
    own = {"nfe": student.facts.nfe, "time_unit": family.time_unit}
    return {"_class_name": [CLASS_CONDITIONAL, "ClassConditionalPipeline"], "vae": vae, **own}
