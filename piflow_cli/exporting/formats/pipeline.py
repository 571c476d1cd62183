"""A folder that ``DiffusionPipeline.from_pretrained`` runs where piflow is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
from diffusers import DiffusionPipeline

from ...errors import UsageError
from ...students.facts import StudentFacts
from ...students.shared_base import root
from ...students.student import Student
from ...teachers import family_of
from ...teachers.text_to_image import TextToImageFamily
from ...weights.locate import hub_id
from ..card import sampling_call, saved
from ..copies import is_part
from ..halves import by_part
from ..network import (
    SCHEDULER_FOLDER,
    base_reference,
    check_whole,
    dtype_of,
    refuse_modular,
    rollouts_of,
    write_json,
    write_network,
    write_scheduler,
)
from ..parts import INDEX_NAME, class_parts, text_parts
from ..standalone.code import SCHEDULER, transformer_class, transformer_module
from ..verify import ComparedFormat, by_pipeline, check_weights, difference, reading_back
from ..weights import merged_weights

if TYPE_CHECKING:
    from ...console import Console
    from ..request import ExportRequest


class PipelineFormat(ComparedFormat):
    """A pipeline that holds the merged base, or names it (``--no-base``) beside the student's own weights."""

    name = "pipeline"

    def check(self, facts: StudentFacts, request: ExportRequest) -> None:
        refuse_modular(facts, request)
        check_whole(facts, request)
        if request.quantise is not None:
            raise UsageError(
                f"--quantise {request.quantise}: a pipeline is quantised when it is loaded",
                "leave it out, or choose --format merged",
            )

    def write(self, student: Student, folder: Path, request: ExportRequest, console: Console) -> dict[str, object]:
        facts, dtype = student.facts, dtype_of(request, student)
        index: dict[str, object] = {"_diffusers_version": diffusers.__version__}
        for part, network in by_part(student).items():
            reference = None if request.with_base else base_reference(facts, request, part)
            write_network(network, folder / part, dtype, reference=reference)
            kind = type(root(network.model))
            index[part] = [transformer_module(kind), transformer_class(kind)]
        write_scheduler(student, folder / SCHEDULER_FOLDER)
        index[SCHEDULER_FOLDER] = [SCHEDULER, "PolicyScheduler"]
        parts = text_parts if isinstance(student.family, TextToImageFamily) else class_parts
        write_json(folder / INDEX_NAME, index | parts(student, folder, request, console))
        self.dtype = dtype
        if reference is not None and hub_id(facts.base_at(request.base)[0]) is None:
            console.warn(f"the base is named by its path on this machine: {reference['place']}")
        return {"dtype": str(dtype).removeprefix("torch."), "rollouts": rollouts_of(student.facts)}

    def verify(self, student: Student, folder: Path, request: ExportRequest) -> float:
        dtype = dtype_of(request, student)
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        halves = by_part(student)
        own = (*halves, SCHEDULER_FOLDER, "_class_name")
        others = [name for name, value in index.items() if is_part(value) and name not in own]
        device = next(root(student.model).parameters()).device
        with reading_back():
            # Text encoders and VAE do not affect the comparison, and they are large.
            pipeline = DiffusionPipeline.from_pretrained(
                folder, trust_remote_code=True, torch_dtype=dtype, **dict.fromkeys(others)
            )
            networks = {part: getattr(pipeline, part).to(device) for part in halves}
            if request.with_base:
                for part, half in halves.items():
                    check_weights(merged_weights(half), networks[part])
            network = student.family.together(list(networks.values()))
            return difference(student, dtype, by_pipeline(student, network, pipeline.scheduler))

    def snippet(self, facts: StudentFacts, place: str, sizes: str = "") -> str:
        # Class-conditional students are small, and some of them made on a CPU.
        family = family_of(facts.family)
        large = isinstance(family, TextToImageFamily)
        header, options, device = (
            ("import torch\n", ", torch_dtype=torch.bfloat16", '.to("cuda" if torch.cuda.is_available() else "cpu")')
            if large
            else ("", "", "")
        )
        imports, ending = saved(family, f"pipeline({sampling_call(facts, sizes)})", "image")
        return f"""{header}from diffusers import DiffusionPipeline
{imports}
pipeline = DiffusionPipeline.from_pretrained({place!r}, trust_remote_code=True{options}){device}
{ending}
"""
