"""The network in one piece, with adapters fused into the base, for ``AutoModel.from_pretrained``."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoModel
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module

from ...core.policies.kinds import head_class
from ...errors import UsageError
from ...presets.choices import BITSANDBYTES
from ...students.facts import StudentFacts
from ...students.shared_base import root
from ...students.student import Student
from ...system.devices import choose_device
from ...teachers import family_of
from ...teachers.class_conditional import ClassConditionalFamily
from ...teachers.text_to_image import TextToImageFamily
from ...weights.quantisation import STORED_AS, delicate, quantised_loading
from ..card import base_told, sampling_call
from ..network import (
    SCHEDULER_FOLDER,
    check_whole,
    dtype_of,
    refuse_two_networks,
    rollouts_of,
    write_network,
    write_scheduler,
)
from ..opening import opening
from ..standalone.code import SCHEDULER
from ..verify import ComparedFormat, by_pipeline, check_weights, difference, reading_back
from ..weights import SHARD_SIZE, linear_layers, merged_weights

if TYPE_CHECKING:
    from ...console import Console
    from ..request import ExportRequest

FP8 = "fp8"
# Measured on tiny random networks, whose layers are too narrow for errors to average out: fp8 shows 0.07. The others
# have not been run.
TOLERANCES_IN_BITS = {FP8: 0.2, "int8": 0.2, "nf4": 0.5}


LOADING = f"""\
import torch
from diffusers import AutoModel{{pipeline}}
from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module

place = {{place!r}}
transformer = AutoModel.from_pretrained(place, trust_remote_code=True, torch_dtype=torch.bfloat16)
kind = get_class_from_dynamic_module(
    place, "{SCHEDULER}.py", "{SCHEDULER_FOLDER}", "PolicyScheduler", trust_remote_code=True
)
scheduler = kind.from_pretrained(place, subfolder="{SCHEDULER_FOLDER}")
"""
TEXT_SAMPLING = """\
{opening}
{ending}
"""
CLASS_SAMPLING = """\
labels, size = torch.tensor([0, 1, 2]), transformer.config.sample_size
x = torch.randn(len(labels), transformer.config.in_channels, size, size) * scheduler.init_noise_sigma
scheduler.set_timesteps({nfe})
for timestep in scheduler.timesteps:
    told = scheduler.scale_model_input(x, timestep).to(transformer.dtype)
    with torch.no_grad():
        output = transformer(told, (timestep / {unit:g}).expand(len(x)), labels)
    x = scheduler.step(getattr(output, "sample", output), timestep, x).prev_sample
"""


class MergedFormat(ComparedFormat):
    """The ``transformer/`` of a pipeline as a folder, optionally quantised, with the scheduler in ``scheduler/``."""

    name = "merged"

    def check(self, facts: StudentFacts, request: ExportRequest) -> None:
        refuse_two_networks(facts, request)
        check_whole(facts, request)
        if not request.with_base:
            raise UsageError(
                "--no-base: a merged network is its base", "leave --no-base out, or choose --format adapter or pipeline"
            )
        precision = request.quantise
        if precision is None or precision == FP8:
            return
        if precision not in BITSANDBYTES:
            raise UsageError(f"--quantise {precision} is unknown", f"choose one of {', '.join((FP8, *BITSANDBYTES))}")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UsageError(
                f"--quantise {precision} needs the package bitsandbytes",
                'pip install "piflow[lowvram]", or choose --quantise fp8',
            )
        if choose_device(request.device).type != "cuda":
            raise UsageError(f"--quantise {precision} needs a CUDA device", "choose --quantise fp8")

    def write(self, student: Student, folder: Path, request: ExportRequest, console: Console) -> dict[str, object]:
        self.dtype = dtype = dtype_of(request, student)
        if request.quantise in BITSANDBYTES:
            _write_in_bits(student, folder, dtype, request.quantise)
        elif request.quantise == FP8:
            write_network(
                student, folder, dtype, storage=str(STORED_AS).removeprefix("torch."), stored=cast_weights(student)
            )
        else:
            write_network(student, folder, dtype)
        write_scheduler(student, folder / SCHEDULER_FOLDER)
        return {"dtype": str(dtype).removeprefix("torch."), "rollouts": rollouts_of(student.facts)}

    def verify(self, student: Student, folder: Path, request: ExportRequest) -> float:
        with reading_back():
            model = AutoModel.from_pretrained(str(folder), trust_remote_code=True, torch_dtype=self.dtype)
            if request.quantise not in BITSANDBYTES:
                model = model.to(next(root(student.model).parameters()).device)
                check_weights(merged_weights(student), model)
            place = (str(folder), f"{SCHEDULER}.py", SCHEDULER_FOLDER, "PolicyScheduler")
            scheduler = get_class_from_dynamic_module(*place, trust_remote_code=True).from_pretrained(
                folder / SCHEDULER_FOLDER
            )
            return difference(student, self.dtype, by_pipeline(student, model, scheduler))

    def tolerance(self, request: ExportRequest) -> float:
        return super().tolerance(request) if request.quantise is None else TOLERANCES_IN_BITS[request.quantise]

    def snippet(self, facts: StudentFacts, place: str, sizes: str = "") -> str:
        family = family_of(facts.family)
        if isinstance(family, TextToImageFamily):
            imports, base = base_told(facts.base)
            names, opened = opening(family, base, {family.component: "transformer", "scheduler": "scheduler"})
            loading = LOADING.format(place=place, pipeline=f", {names}")
            more, ending = family.saved(f"pipeline({sampling_call(facts, sizes)})", "image")
            return imports + more + loading + TEXT_SAMPLING.format(opening=opened, ending=ending)
        assert isinstance(family, ClassConditionalFamily), "a student is told a text or a class"
        sampling = CLASS_SAMPLING.format(nfe=facts.nfe, unit=family.time_unit)
        return LOADING.format(place=place, pipeline="") + sampling


def cast_weights(student: Student) -> set[str]:
    """Weights that ``enable_layerwise_casting`` of diffusers keeps in 8 bits: of linear layers but delicate ones."""
    model = root(student.model)
    patterns = (*DEFAULT_SKIP_MODULES_PATTERN, *delicate(model, ()), *head_class(student.facts.policy).layers)
    layers = {path for path in linear_layers(model) if not any(re.search(pattern, path) for pattern in patterns)}
    return {name for name in merged_weights(student) if name.rpartition(".")[0] in layers}


def _write_in_bits(student: Student, folder: Path, dtype: torch.dtype, precision: str) -> None:
    """Write a folder in ``dtype``, which diffusers then loads in fewer bits and saves again."""
    keep = [student.family.head_site(root(student.model)).projection, *student.family.trained_in_full]
    with tempfile.TemporaryDirectory(dir=folder.parent) as whole:
        write_network(student, Path(whole), dtype)
        model = AutoModel.from_pretrained(
            whole, trust_remote_code=True, torch_dtype=dtype, **quantised_loading(precision, keep)
        )
        model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
        for code in Path(whole).glob("*.py"):
            (folder / code.name).write_text(code.read_text(encoding="utf-8"), encoding="utf-8")
