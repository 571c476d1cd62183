"""Students on disk, in the layout of the published adapters: config.json and one safetensors file with its metadata.

Names of the head: ``proj_out_means``, ``proj_out_logweights``, ``proj_out_logstds`` for GM; the projection's own name
for DX. A fully trained student brings all its weights. One that shares its base brings pairs ``<module>.lora_A.weight``
and ``<module>.lora_B.weight`` whose product counts once, its head, and what it trained in full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.tensors import all_finite, whole
from ..errors import RunError, UsageError
from ..system.files import replacing_folder
from ..teachers import family_of
from ..weights.locate import locate
from ..weights.quantisation import COMPUTED_IN
from ..weights.stored import StoredWeights
from ..weights.whole import stays_whole
from .adapter_configs import (
    OTHER_CONFIG,
    base_config,
    check_architecture,
    outlined_student,
    policy_config,
    read_config,
    refuse_unknown,
    widened_config,
)
from .adapter_digests import check_digests, with_digests
from .adapter_fit import LORA_A, LORA_B, check_ranks, ranks_of, refuse_misfits
from .agreement import check_config, check_policy
from .facts import StudentFacts, has_facts
from .locate import CONFIG_NAME, WEIGHTS_NAME, StudentFiles
from .of_diffusers import facts_of_stock
from .published import facts_of_published, published_names
from .runs import iterations_asked
from .shared_base import View, root
from .stock_settings import settings_beside
from .student import Student, loaded_student
from .teacher_loras import check_unquantised, fuse, keep_loras, kept_loras


def adapter_tensors(student: Student) -> dict[str, Tensor]:
    """The student's weights under their published names, on the CPU.

    Where processes share them out, every process must ask.
    """
    names = published_names(student)
    tensors = {}
    for name, value in student.model.state_dict().items():
        if name.endswith(LORA_B):
            # The published format has no alpha.
            value = value * student.model.shared.adapter_scale
        tensors[names.get(name, name)] = whole(value.detach()).cpu().contiguous()
    return tensors


def save_adapter(student: Student, folder: Path, tensors: dict[str, Tensor] | None = None) -> None:
    """Write the student to ``folder``, aside first; an adapter that is there already stays whole until then.

    ``tensors``: its :func:`adapter_tensors`, where they are known.
    """
    with replacing_folder(folder) as aside:
        write_adapter(student, aside, adapter_tensors(student) if tensors is None else tensors, {}, folder)


def write_adapter(
    student: Student, folder: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str], earlier: Path | None = None
) -> None:
    """Write ``tensors``, the config of ``student`` and the LoRAs in its base into ``folder``.

    ``metadata``: entries of other tools, which stand beside the student's facts. ``earlier``: the folder that this one
    replaces.
    """
    keep_loras(student.loras, folder, folder if earlier is None else earlier)
    metadata = {
        "format": "pt",
        "policy_config": json.dumps(policy_config(student.facts)),
        **metadata,
        **student.facts.to_metadata(),
    }
    (folder / CONFIG_NAME).write_text(json.dumps(widened_config(student), indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS_NAME, with_digests(metadata, tensors, folder / CONFIG_NAME))
    # safetensors lets nobody but the owner read its files.
    (folder / WEIGHTS_NAME).chmod(0o644)


def load_adapter(
    files: StudentFiles,
    facts: StudentFacts,
    *,
    base: str | None = None,
    teacher: str | None = None,
    dtype: torch.dtype | None = torch.float32,
    precision: str | None = None,
    as_stored: bool = False,
    changed: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Student:
    """The student in ``files`` with its ``facts`` (:func:`read_facts`), on the CPU.

    Args:
        base: place of the base, in place of the one that the student names.
        teacher: the preset of a student without facts of its own.
        dtype: dtype of a base and the adapters on it; None: as it was trained.
        precision: of the base, as :meth:`~piflow_cli.teachers.base.TeacherFamily.load_base` takes it.
        as_stored: leave adapters in the dtype of the file; 8-bit floats become float32, since nothing computes in them.
        changed: accept files that are not as they were saved.
        say: takes a line on what was assumed.

    Raises:
        UsageError: the base is of another architecture, ``precision`` is given where there is no base, or LoRAs cannot
            be fused in it.
        RunError: files are corrupt, missing, do not belong together or hold values that are not finite.
    """
    config, weights = read_config(files.config), StoredWeights(files.weights)
    if not changed:
        check_digests(weights, files.config)
    family = family_of(facts.family, facts.guidance)
    ranks = ranks_of(weights)
    if not ranks:
        if precision not in (None, "fp32", facts.base_precision):
            raise UsageError(
                f"a base in {precision} is one below adapters, and this student brings all of its weights",
                "leave --base-precision out",
            )
        student = outlined_student(family, base_config(config, facts, teacher, family), facts, weights)
        return _trained_in_full(student, config, weights, precision, say)
    check_unquantised(facts.teacher_loras, precision)
    loras = kept_loras(files.weights.parent, facts.teacher_loras)
    place = locate(*facts.base_at(base))
    if precision is not None:
        dtype = COMPUTED_IN[precision]
    elif dtype is None:
        dtype = getattr(torch, facts.base_dtype)
    model = family.load(place, dtype) if precision is None else family.load_base(place, precision)
    if config is not None:
        refuse_unknown(config, type(family.network(model)), family)
        check_architecture(config, model, family)
    check_ranks(ranks, model)
    fuse(model, family, place, loras)
    student = loaded_student(model, family, facts, ranks)
    student.loras = loras
    check_config(config, student, weights, say)
    fill(student, weights, None if as_stored else dtype)
    return student


def _hold(student: Student, dtype: torch.dtype) -> None:
    """Let weights that are still to be filled be in ``dtype``, but for those that stay in float32."""
    model = root(student.model)
    for name, value in model.named_parameters():
        if not stays_whole(name, type(model)):
            value.data = value.data.to(dtype)


def _trained_in_full(
    student: Student,
    config: Mapping[str, Any] | None,
    weights: StoredWeights,
    precision: str | None,
    say: Callable[[str], None],
) -> Student:
    if precision is not None:
        _hold(student, COMPUTED_IN[precision])
    if config is not None:
        refuse_unknown(config, type(student.model), student.family)
    check_config(config, student, weights, say)
    fill(student, weights)
    return student


def read_facts(
    files: StudentFiles,
    *,
    teacher: str | None = None,
    base: str | None = None,
    changed: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> StudentFacts:
    """The student's facts, without its weights; arguments and errors are those of :func:`load_adapter`.

    ``say`` takes a line on what was assumed.
    """
    weights = StoredWeights(files.weights)
    if not changed:
        check_digests(weights, files.config, say)
    facts = _facts(read_config(files.config), weights, teacher, base, say)
    if ranks_of(weights):
        # Before prompts are encoded and the base is read, which may take minutes.
        kept_loras(files.weights.parent, facts.teacher_loras)
    asked = iterations_asked(files.weights.parent)
    if asked is not None and facts.iterations < asked:
        say(f"the run is not finished: the student is that of iteration {facts.iterations:,} of {asked:,}")
    return facts


def _facts(
    config: Mapping[str, Any] | None,
    weights: StoredWeights,
    teacher: str | None,
    base: str | None,
    say: Callable[[str], None],
) -> StudentFacts:
    if not has_facts(weights):
        if (settings := settings_beside(weights.path)) is not None:
            return facts_of_stock(config, settings, teacher, base, say)
        return facts_of_published(config, weights, teacher, base, say)
    facts = StudentFacts.from_metadata(weights.metadata)
    check_policy(weights, facts, say)
    told = facts.components if config is None else config.get("num_gaussians", facts.components)
    if told != facts.components:
        raise RunError(
            f"{weights.path} is of {facts.components} components, and {CONFIG_NAME} says {told}", OTHER_CONFIG
        )
    return facts


@torch.no_grad()
def fill(student: Student, weights: StoredWeights, adapters: torch.dtype | None = None) -> None:
    """Put stored ``weights`` in the place of the student's own, one at a time, on the device of its base.

    Adapters get the dtype ``adapters``, or keep their stored one; everything else keeps the student's. Raises RunError
    where names or shapes differ, or values are not finite.
    """
    slots = tensor_slots(student)
    refuse_misfits(student, weights, {name: getattr(*slot).shape for name, slot in slots.items()})
    held = [value.device for value in root(student.model).parameters() if not value.is_meta]
    for name, (module, leaf) in slots.items():
        old, value = getattr(module, leaf), weights.read(name)
        if not all_finite(value):
            raise RunError(
                f"{weights.path} is damaged: {name} has values that are not finite",
                "use another checkpoint, or copy it again",
            )
        dtype = (
            old.dtype
            if not name.endswith((LORA_A, LORA_B))
            else _computing(value.dtype)
            if adapters is None
            else adapters
        )
        # A copy, since what was read may be a view of the file.
        value = value.to(held[0] if held else "cpu", dtype, copy=True)
        learns = isinstance(old, nn.Parameter)
        setattr(module, leaf, nn.Parameter(value, requires_grad=old.requires_grad) if learns else value)


@contextmanager
def holding(student: Student, weights: StoredWeights) -> Generator[None]:
    """The student with other ``weights`` for a while; afterwards it has its own again.

    The adapters may have another rank.
    """
    own = {name: (slot, getattr(*slot)) for name, slot in tensor_slots(student).items()}
    try:
        fill(student, weights)
        yield
    finally:
        for (module, leaf), value in own.values():
            setattr(module, leaf, value)


def tensor_slots(student: Student) -> dict[str, tuple[nn.Module, str]]:
    """Every tensor that the student brings, by its published name: its module, and its name there.

    One that brings all of its weights brings the tables of positions too that some networks store beside them.
    """
    model, slots, published = student.model, {}, published_names(student)
    for path, module in root(model).named_modules():
        own = [leaf for leaf, _ in module.named_parameters(recurse=False)]
        if not isinstance(model, View):
            own += [leaf for leaf in module._buffers if leaf not in module._non_persistent_buffers_set]
        for leaf in own:
            inside = f"{path}.{leaf}" if path else leaf
            if (name := model.own_name(inside) if isinstance(model, View) else inside) is not None:
                slots[published.get(name, name)] = (module, leaf)
    return slots


def _computing(stored: torch.dtype) -> torch.dtype:
    """The dtype in which adapters are held: their own, but float32 for 8-bit floats."""
    return torch.float32 if stored.itemsize == 1 else stored
