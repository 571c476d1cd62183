"""The published layout, which ComfyUI-piFlow loads too: in other dtypes, and with adapters of lower rank."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.tensors import all_finite
from ...errors import RunError, UsageError
from ...students.adapter_fit import LORA_A, LORA_B
from ...students.adapters import adapter_tensors, holding, write_adapter
from ...students.locate import WEIGHTS_NAME
from ...students.student import Student
from ...teachers import family_of
from ...teachers.text_to_image import TextToImageFamily
from ...weights.stored import StoredWeights
from ..card import base_told, sampling_call
from ..opening import opening
from ..portable import is_of_this_machine, portable
from ..request import DTYPES, ExportRequest
from ..verify import fixed_inputs, largest_difference, velocities

if TYPE_CHECKING:
    from ...console import Console
    from ...students.facts import StudentFacts

# Shares of the largest velocity. Rounded weights beside a bfloat16 base move whole layers by its last bit.
TOLERANCES = {None: 1e-6, "fp32": 1e-6, "fp16": 0.1, "bf16": 0.1}

TEXT_SNIPPET = """\
import piflow_cli as piflow
import torch
from diffusers import {names}

student = piflow.load_student({place!r}, dtype=torch.bfloat16)
{opening}
{ending}
"""
CLASS_SNIPPET = """\
import piflow_cli as piflow

images = piflow.sample({place!r}, labels=[0, 1, 2], seeds=[0, 1, 2])
"""


class AdapterFormat:
    """config.json and one safetensors file with everything that was trained, and nothing of the base."""

    name = "adapter"

    def __init__(self) -> None:
        self._intended: dict[str, Tensor] = {}
        self._written: dict[str, Tensor] = {}

    def check(self, facts: StudentFacts, request: ExportRequest) -> None:
        if request.quantise is not None:
            raise UsageError(
                "--quantise is for a base, and an adapter holds none", "leave --quantise out, or choose --format merged"
            )
        if not request.with_base:
            raise UsageError("an adapter never holds its base", "leave --no-base out")

    def write(self, student: Student, folder: Path, request: ExportRequest, console: Console) -> dict[str, object]:
        source = StoredWeights(request.find().files.weights)
        self._intended, report = adapter_tensors(student), {}
        if request.rank is not None:
            report = self._reduce(student, request.rank)
        dtypes = (
            source.dtypes
            if request.dtype is None
            else dict.fromkeys(self._intended, getattr(torch, DTYPES[request.dtype]))
        )
        published = {name: value for name, value in source.metadata.items() if not name.startswith("piflow.")}
        self._written = {name: _rounded(name, value, dtypes[name]) for name, value in self._intended.items()}
        write_adapter(self._told(student, console), folder, self._written, published)
        return report

    def _told(self, student: Student, console: Console) -> Student:
        """The student with the facts of the file, which name no folder of this machine."""
        if is_of_this_machine(student.facts.base):
            place = student.facts.base
            console.warn(
                f"the base is a folder on this machine ({place}) that the export does not name: type piflow sample RUN"
                " --base PATH"
            )
        return student.telling(portable(student.facts))

    def verify(self, student: Student, folder: Path, request: ExportRequest) -> float:
        inputs, stored = fixed_inputs(student), StoredWeights(folder / WEIGHTS_NAME)
        for name, value in self._written.items():
            if not torch.equal(stored.read(name), value):
                raise RunError(
                    f"what was written is not the student: {name} is another",
                    "look after the disk, then run the same command again",
                )
        expected = velocities(student, inputs)
        if request.rank is not None:
            # A lower rank was asked for, so the comparison is with the adapters as they were cut.
            with holding(student, StoredWeights(folder, self._intended)):
                expected = velocities(student, inputs)
        with holding(student, stored):
            return largest_difference(velocities(student, inputs), expected)

    def tolerance(self, request: ExportRequest) -> float:
        return TOLERANCES[request.dtype]

    def snippet(self, facts: StudentFacts, place: str, sizes: str = "") -> str:
        family = family_of(facts.family, facts.guidance)
        if not isinstance(family, TextToImageFamily):
            return CLASS_SNIPPET.format(place=place)
        imports, base = base_told(facts.base)
        more, ending = family.saved(f"pipeline({sampling_call(facts, sizes)})", "fox")
        names, opened = opening(family, base, _parts(family))
        told = {"names": names, "opening": opened, "ending": ending}
        return imports + more + TEXT_SNIPPET.format(place=place, **told)

    def _reduce(self, student: Student, rank: int) -> dict[str, object]:
        """Cut every adapter to ``rank``; returns the loss of the adapters, and how far policies move by it."""
        firsts = [name for name in self._intended if name.endswith(LORA_A)]
        if not firsts:
            raise UsageError("--rank is of adapters, and this student is trained in full", "leave --rank out")
        inputs, lost, whole = fixed_inputs(student), 0.0, 0.0
        before = velocities(student, inputs)
        for first in firsts:
            second = first.removesuffix(LORA_A) + LORA_B
            self._intended[first], self._intended[second], tail, total = reduced(
                self._intended[first], self._intended[second], rank
            )
            lost, whole = lost + tail, whole + total
        with holding(student, StoredWeights(Path(WEIGHTS_NAME), self._intended)):
            moved = largest_difference(velocities(student, inputs), before)
        return {"rank": rank, "rank_error": math.sqrt(lost / whole) if whole > 0 else 0.0, "rank_policy_change": moved}


def _parts(family: TextToImageFamily) -> dict[str, str]:
    """The arguments that hand a student's networks and scheduler to the stock pipeline."""
    base = {part: f"student.model.base.{start}".removesuffix(".") for part, start in family.own_parts.items()}
    # A base's own index says where its second network begins, and not where the student's does.
    told = {name: str(value) for name, value in family.pipeline_options.items()} if len(base) > 1 else {}
    return {**base, **told, "scheduler": "student.scheduler(patch=student.family.token_positions)"}


def reduced(first: Tensor, second: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """The best ``rank`` approximation of the product ``second`` (O, R) @ ``first`` (R, I), in factors of equal norm.

    By the singular values of the R x R core between the orthogonal parts of both, so that the product is never formed
    (Eckart and Young, 1936). Also the squared Frobenius norms of what is lost and of the whole; factors that are low
    enough stay.
    """
    if rank >= first.shape[0]:
        gram = (second.double().T @ second.double()) * (first.double() @ first.double().T)
        return first, second, 0.0, gram.sum().item()
    left, core_left = torch.linalg.qr(second.double())
    right, core_right = torch.linalg.qr(first.double().T)
    u, values, v = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
    whole, lost = values.square().sum().item(), values[rank:].square().sum().item()
    root = values[:rank].sqrt()
    cut_first, cut_second = root[:, None] * (v[:rank] @ right.T), (left @ u[:, :rank]) * root
    return cut_first.to(first.dtype).contiguous(), cut_second.to(second.dtype).contiguous(), lost, whole


def _rounded(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = value.to(dtype)
    if not all_finite(rounded):
        raise RunError(f"{name} has values beyond the range of {dtype}".replace("torch.", ""), "choose --dtype bf16")
    return rounded
