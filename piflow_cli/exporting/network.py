"""A student's network and scheduler as folders that diffusers loads: config, code, weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.policies.kinds import policy_class
from ..errors import UsageError
from ..presets.folders import SHIPPED_PREFIX
from ..presets.places import expanded
from ..students.adapter_configs import OF_FILES
from ..students.facts import StudentFacts
from ..students.fused_loras import told_loras
from ..students.shared_base import root
from ..students.student import Student
from ..teachers import family_of
from ..teachers.text_to_image import TextToImageFamily
from ..weights.locate import hub_id, locate
from ..weights.whole import stays_whole
from .halves import network_parts
from .portable import portable
from .request import DTYPES
from .standalone.code import (
    SCHEDULER,
    scheduler_code,
    transformer_class,
    transformer_code,
    transformer_module,
)
from .weights import base_dtype, merged_weights, own_weights, save_weights

if TYPE_CHECKING:
    from .request import ExportRequest

SCHEDULER_FOLDER = "scheduler"


def rollouts_of(facts: StudentFacts) -> str:
    """How policies are followed where piflow is not installed, in words."""
    return (
        "exact, as in piflow"
        if policy_class(facts.policy).exact
        else "the plain loop over substeps, where piflow has fused ones"
    )


def dtype_of(request: ExportRequest, student: Student) -> torch.dtype:
    """The dtype of the written weights: as asked, or as the student has them."""
    return base_dtype(student) if request.dtype is None else getattr(torch, DTYPES[request.dtype])


def write_network(
    student: Student,
    folder: Path,
    dtype: torch.dtype,
    *,
    reference: Mapping[str, Any] | None = None,
    storage: str | None = None,
    stored: Collection[str] = (),
) -> None:
    """Write the network with its policy head into ``folder``: config.json, the file of its class, the weights.

    Args:
        student: stays as it is.
        dtype: of the weights; the head, and what diffusers keeps in float32, stay so.
        reference: where the base is (``place``, ``subfolder``, ``revision``), for a folder with only what the student
            brings.
        storage: the 8-bit dtype, by its name in torch, of the weights named in ``stored``.
    """
    folder.mkdir(exist_ok=True)
    kind = type(root(student.model))
    policy = _policy_entry(student) | {"base": reference, "storage": storage}
    auto_map = {"AutoModel": f"{transformer_module(kind)}.{transformer_class(kind)}"}
    config = plain_config(student) | {"_class_name": transformer_class(kind), "policy": policy, "auto_map": auto_map}
    write_json(folder / "config.json", config)
    (folder / f"{transformer_module(kind)}.py").write_text(
        transformer_code(kind, student.facts.policy), encoding="utf-8"
    )
    weights = merged_weights(student) if reference is None else own_weights(student)

    def written_in(name: str) -> torch.dtype:
        if stays_whole(name, kind):
            return torch.float32
        return getattr(torch, storage) if storage is not None and name in stored else dtype

    save_weights(weights, folder, written_in, portable(student.facts).to_metadata())


def _policy_entry(student: Student) -> dict[str, Any]:
    """The config entry from which the class beside the weights builds the head."""
    facts, family, model = student.facts, student.family, root(student.model)
    return {
        "kind": facts.policy,
        "components": facts.components,
        "logstd_width": facts.logstd_width,
        "embedding_dim": family.embedding_dim(model),
        "site": asdict(family.head_site(model)),
    }


def plain_config(student: Student) -> dict[str, Any]:
    """The base's own config, without entries about its files."""
    config = json.loads(root(student.model).to_json_string())
    return {key: value for key, value in config.items() if key not in OF_FILES}


def write_scheduler(student: Student, folder: Path) -> None:
    """Write the student's PolicyScheduler, as it was trained, and its code into ``folder``."""
    family = student.family
    patch = family.token_positions if isinstance(family, TextToImageFamily) else None
    student.scheduler(patch=patch).save_config(folder)
    (folder / f"{SCHEDULER}.py").write_text(scheduler_code(student.facts.policy, family.predicts), encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def base_reference(facts: StudentFacts, request: ExportRequest, part: str) -> dict[str, Any]:
    """The place of the base's network ``part``, as ``from_pretrained`` of diffusers takes it."""
    base, revision = facts.base_at(request.base)
    return base_entry(base, revision, part if (locate(base, revision) / part).is_dir() else "")


def refuse_two_networks(facts: StudentFacts, request: ExportRequest) -> None:
    """Raise UsageError where the student has two networks, and the format holds one."""
    if len(network_parts(family_of(facts.family))) > 1:
        raise UsageError(
            f"the format {request.format} holds one network, and the student has two",
            "choose --format pipeline, or --format adapter",
        )


def refuse_modular(facts: StudentFacts, request: ExportRequest) -> None:
    """Raise UsageError where the stock pipeline is a modular one, for a format that is opened as a whole one."""
    family = family_of(facts.family)
    if family.modular_blocks is not None:
        raise UsageError(
            f"--format {request.format}: the stock pipeline of the family {family.name} is a modular one, which"
            " DiffusionPipeline.from_pretrained does not open",
            "choose --format merged or adapter, whose card says how it is opened",
        )


def base_entry(base: str, revision: str | None, inside: str) -> dict[str, Any]:
    """``place``, ``subfolder`` and ``revision`` of the folder ``inside`` a base; local ones by absolute path."""
    found = hub_id(base)
    if found is None:
        return {"place": str(expanded(base).resolve()), "subfolder": inside or None, "revision": None}
    repository, folder = found
    path = "/".join(part for part in (folder, inside) if part)
    return {"place": repository, "subfolder": path or None, "revision": revision}


def check_whole(facts: StudentFacts, request: ExportRequest) -> None:
    """Raise UsageError for options about adapters or a base, where they are fused, or where there are none to name."""
    if not request.with_base and not isinstance(family_of(facts.family), TextToImageFamily):
        raise UsageError(
            "--no-base: the student brings all of its weights, and has no base to leave out", "leave --no-base out"
        )
    base, _ = facts.base_at(request.base)
    if not request.with_base and base.startswith(SHIPPED_PREFIX):
        raise UsageError(
            f"--no-base: the base {base} comes with piflow, and is nowhere that an export could name",
            "leave --no-base out",
        )
    if not request.with_base and facts.teacher_loras:
        raise UsageError(
            f"--no-base: the base has LoRAs fused into it ({told_loras(facts.teacher_loras)}), and is nowhere that an"
            " export could name",
            "leave --no-base out",
        )
    if request.rank is not None:
        raise UsageError(
            f"--rank is about adapters, and the format {request.format} fuses them into the base",
            "leave --rank out, or choose --format adapter",
        )
