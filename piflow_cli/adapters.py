"""Students on disk, in the layout of the published adapters: config.json and one safetensors file with its metadata.

Names of the head: ``proj_out_means``, ``proj_out_logweights``, ``proj_out_logstds`` for GM; the projection's own name for
DX. A fully trained student brings all its weights. One that shares its base brings pairs ``<module>.lora_A.weight`` and
``<module>.lora_B.weight`` whose product counts once, its head, and what it trained in full.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import RunError, UsageError
from .files import replacing_folder
from .foreign import (
    CLASS_PREFIXES,
    base_outline,
    class_of_base,
    facts_of_foreign,
    no_head,
    on_base,
)
from .presets import load
from .quantisation import COMPUTED_IN
from .runs import iterations_asked
from .student import (
    METADATA_PREFIX,
    Student,
    StudentFacts,
    loaded_student,
    unloaded_student,
)
from .student_source import CONFIG_NAME, WEIGHTS_NAME, StudentFiles, locate_student
from .teachers import family_of
from .teachers.base import TeacherFamily
from .teachers.locate import locate
from .teachers.text_to_image import TextToImageFamily
from .views import View, root
from .weights import StoredWeights

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
WIDENED_FIELDS = ("num_gaussians", "constant_logstd", "logstd_inner_dim", "gm_num_logstd_layers", "logweights_channels")
OTHER_BASE = "use the base it was trained on: --base PATH"
OTHER_CONFIG = f"use the {CONFIG_NAME} that was saved with these weights, or distil again"
NAMED_FAULTS = 3


def adapter_tensors(student: Student) -> dict[str, Tensor]:
    """The student's weights under their published names, on the CPU."""
    names = _published_names(student)
    tensors = {}
    for name, value in student.model.state_dict().items():
        if name.endswith(LORA_B):
            # The published format has no alpha.
            value = value * student.model.shared.adapter_scale
        tensors[names.get(name, name)] = value.detach().cpu().contiguous()
    return tensors


def save_adapter(student: Student, folder: Path) -> None:
    """Write the student to ``folder``, aside first; an adapter that is there already stays whole until then."""
    with replacing_folder(folder) as aside:
        write_adapter(student, aside, adapter_tensors(student), {})


def write_adapter(student: Student, folder: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` and the config of ``student`` into ``folder``; ``metadata`` that others left goes beside its own facts."""
    metadata = {"format": "pt", "policy_config": json.dumps(_policy_config(student.facts)), **metadata, **student.facts.to_metadata()}
    (folder / CONFIG_NAME).write_text(json.dumps(_config(student), indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS_NAME, metadata)
    # safetensors lets nobody else read what it writes.
    (folder / WEIGHTS_NAME).chmod(0o644)


def load_adapter(
    source: str | Path | StudentFiles,
    *,
    base: str | None = None,
    teacher: str | None = None,
    dtype: torch.dtype | None = torch.float32,
    precision: str | None = None,
    as_stored: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Student:
    """Read a student from what :func:`~piflow_cli.student_source.locate_student` takes, or from what it gave.

    Args:
        source: the student as `piflow distill` or a published repository has it.
        base: where the base of a student with adapters is, in place of what the student says.
        teacher: the preset whose values hold where the student says nothing of itself.
        dtype: of the base of a student with adapters, and of the adapters on it; None: as it was trained.
        precision: of the base in place of ``dtype``, as :meth:`~piflow_cli.teachers.base.TeacherFamily.load_base` takes it.
        as_stored: leave adapters in the dtype that the file has them in.
        say: takes a line on what was assumed.

    Raises:
        UsageError: there is no student, or the base is of another architecture.
        RunError: files are corrupt, do not belong together or hold values that are not finite.
    """
    files = source if isinstance(source, StudentFiles) else locate_student(source)
    config, weights = _read_config(files.config), StoredWeights(files.weights)
    facts = _facts(config, weights, teacher, base, say)
    family = family_of(facts.family, facts.guidance)
    ranks = {name.removesuffix(LORA_A): shape[0] for name, shape in weights.shapes.items() if name.endswith(LORA_A)}
    if not ranks:
        if precision not in (None, "fp32"):
            raise UsageError(
                f"a base in {precision} is one below adapters, and this student brings all of its weights", "leave --base-precision out"
            )
        student = unloaded_student(family, _base_config(config, facts, teacher, family), facts)
        fill(student, weights)
        return student
    revision = facts.revision if facts.revision and base is None else None
    place = locate(facts.base if base is None else base, revision)
    if precision is not None:
        dtype = COMPUTED_IN[precision]
    elif dtype is None:
        dtype = getattr(torch, facts.base_dtype)
    model = family.load(place, dtype) if precision is None else family.load_base(place, precision)
    if config is not None:
        _check_architecture(config, model, family)
    absent = sorted(ranks.keys() - dict(model.named_modules()).keys())
    if absent:
        raise RunError(f"the adapter has weights for {absent[0]}, which the base lacks", OTHER_BASE)
    student = loaded_student(model, family, facts, ranks)
    fill(student, weights, None if as_stored else dtype)
    return student


def read_facts(
    source: str | Path | StudentFiles,
    *,
    teacher: str | None = None,
    base: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> StudentFacts:
    """What a student says of itself, without its weights; arguments and errors are those of :func:`load_adapter`."""
    files = source if isinstance(source, StudentFiles) else locate_student(source)
    facts = _facts(_read_config(files.config), StoredWeights(files.weights), teacher, base, say)
    asked = iterations_asked(files.weights.parent)
    if asked is not None and facts.iterations < asked:
        say(f"the run is not finished: the student is that of iteration {facts.iterations:,} of {asked:,}")
    return facts


def _facts(
    config: Mapping[str, Any] | None, weights: StoredWeights, teacher: str | None, base: str | None, say: Callable[[str], None]
) -> StudentFacts:
    if not any(name.startswith(METADATA_PREFIX) for name in weights.metadata):
        return facts_of_foreign(config, weights, teacher, base, say)
    facts = StudentFacts.from_metadata(weights.metadata)
    told = facts.components if config is None else config.get("num_gaussians", facts.components)
    if told != facts.components:
        raise RunError(f"{weights.path} is of {facts.components} components, and {CONFIG_NAME} says {told}", OTHER_CONFIG)
    return facts


@torch.no_grad()
def fill(student: Student, weights: StoredWeights, adapters: torch.dtype | None = None) -> None:
    """Put stored ``weights`` in the place of the student's own, one at a time, on the device of its base.

    Adapters get the dtype ``adapters``, or keep their stored one; everything else keeps the student's. Raises RunError where
    names or shapes differ, or values are not finite.
    """
    slots = parameter_slots(student)
    _refuse_misfits(student, weights, {name: getattr(*slot).shape for name, slot in slots.items()})
    held = [value.device for value in root(student.model).parameters() if not value.is_meta]
    for name, (module, leaf) in slots.items():
        old, value = getattr(module, leaf), weights.read(name)
        if not value.isfinite().all():
            raise RunError(f"{weights.path} is damaged: {name} has values that are not finite", "use another checkpoint, or copy it again")
        dtype = old.dtype if not name.endswith((LORA_A, LORA_B)) else value.dtype if adapters is None else adapters
        # A copy, since what was read may be a view of the file.
        value = value.to(held[0] if held else "cpu", dtype, copy=True)
        setattr(module, leaf, nn.Parameter(value, requires_grad=old.requires_grad))


@contextmanager
def holding(student: Student, weights: StoredWeights) -> Iterator[None]:
    """The student with other ``weights`` for a while, its adapters perhaps of another rank; it has its own again afterwards."""
    own = {name: (slot, getattr(*slot)) for name, slot in parameter_slots(student).items()}
    try:
        fill(student, weights)
        yield
    finally:
        for (module, leaf), value in own.values():
            setattr(module, leaf, value)


def parameter_slots(student: Student) -> dict[str, tuple[nn.Module, str]]:
    """Every parameter that the student brings, by its published name: the module that has it, and its name there."""
    model, slots, published = student.model, {}, _published_names(student)
    for path, module in root(model).named_modules():
        for leaf, _ in module.named_parameters(recurse=False):
            inside = f"{path}.{leaf}" if path else leaf
            if (name := model.own_name(inside) if isinstance(model, View) else inside) is not None:
                slots[published.get(name, name)] = (module, leaf)
    return slots


def _refuse_misfits(student: Student, weights: StoredWeights, expected: Mapping[str, torch.Size]) -> None:
    """Raise RunError where ``weights`` have other names or shapes than ``expected``; the rank of an adapter is its own affair."""
    expected = {name: _at_rank(name, shape, weights) for name, shape in expected.items()}
    facts, head = student.facts, list(_published_names(student).values())
    if not any(name in weights for name in head):
        raise no_head(weights.path, adapters=any(name.endswith(LORA_A) for name in weights))
    faults = [f"{name} is missing" for name in expected if name not in weights]
    faults += [f"{name} is unknown" for name in weights if name not in expected]
    wrong = [name for name in expected if name in weights and weights.shapes[name] != expected[name]]
    faults += [f"{name} is {tuple(weights.shapes[name])}, not {tuple(expected[name])}" for name in wrong]
    if head[0] in wrong and (rows := weights.shapes[head[0]][0] * facts.components) % expected[head[0]][0] == 0:
        faults.insert(0, f"its head has {rows // expected[head[0]][0]} components, and it is said to have {facts.components}")
    if faults:
        more = f" (and {len(faults) - NAMED_FAULTS} more faults)" if len(faults) > NAMED_FAULTS else ""
        hint = f"{OTHER_CONFIG}; {OTHER_BASE}" if isinstance(student.model, View) else OTHER_CONFIG
        raise RunError(f"{weights.path} does not fit a {facts.policy} student of {facts.teacher}: {'; '.join(faults[:NAMED_FAULTS])}{more}", hint)


def _at_rank(name: str, shape: torch.Size, weights: StoredWeights) -> torch.Size:
    """The shape of a tensor, that of an adapter's factor for the rank that its first factor has in ``weights``."""
    first = name.removesuffix(LORA_B) + LORA_A if name.endswith(LORA_B) else name
    if not name.endswith((LORA_A, LORA_B)) or len(weights.shapes.get(first, ())) != 2:
        return shape
    rank = weights.shapes[first][0]
    return torch.Size((rank, shape[1]) if name.endswith(LORA_A) else (shape[0], rank))


def _check_architecture(config: Mapping[str, Any], model: nn.Module, family: TeacherFamily) -> None:
    """Raise UsageError where adapter and base differ in a field that both have."""
    widened = {*WIDENED_FIELDS, *family.config_not_published, "out_channels"}
    for key in sorted(config.keys() - widened):
        theirs = model.config.get(key, config[key])
        if not key.startswith("_") and _plain(theirs) != _plain(config[key]):
            raise UsageError(
                f"the adapter was trained on a base with {key} {config[key]}, and this one has {_plain(theirs)}",
                OTHER_BASE,
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _published_names(student: Student) -> dict[str, str]:
    """Our state-dict names of the head → its published ones."""
    site = student.family.head_site(student.model)
    names = student.model.get_submodule(site.projection).published_names(site.projection)
    return {f"{site.projection}.{own}": published for own, published in names.items()}


def _policy_config(facts: StudentFacts) -> dict:
    if facts.policy in CLASS_PREFIXES:
        return {"type": "GMFlow" if facts.policy == "gm" else "ArcFlow"}
    mode = {"mode": "polynomial"} if facts.policy == "dx-poly" else {}
    return {"type": "DX", "segment_size": facts.segment, "shift": facts.shift, **mode}


def _config(student: Student) -> dict:
    """The base's config, widened: class name and fields as the published adapters have them."""
    facts, family, model = student.facts, student.family, root(student.model)
    config = json.loads(model.to_json_string())
    site = family.head_site(model)
    if facts.policy in CLASS_PREFIXES:
        if "patch_size" in family.config_not_published and config["out_channels"] is not None:
            # Without a patch size the published classes count the channels of a whole token.
            config["out_channels"] *= config["patch_size"] ** 2
        config = {key: value for key, value in config.items() if key not in family.config_not_published}
        config["_class_name"] = CLASS_PREFIXES[facts.policy] + config["_class_name"]
        config |= {"num_gaussians": facts.components, "logweights_channels": site.patch}
        if facts.policy == "gm":
            config |= {"constant_logstd": None, "logstd_inner_dim": facts.logstd_width, "gm_num_logstd_layers": 2}
    else:
        config["out_channels"] = model.out_channels if site.unpatchify else facts.components * model.out_channels
    return config


def _read_config(path: Path | None) -> dict[str, Any] | None:
    """A config, or None where there is none; raises RunError where the file is no JSON object that names a class."""
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        class_of_base(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not the config of a model", "copy it again, or distil again") from error
    return config


def _base_config(config: Mapping[str, Any] | None, facts: StudentFacts, teacher: str | None, family: TeacherFamily) -> dict[str, Any]:
    """The base's config back from the widened one; from the teacher's own where the student has none of ours."""
    if config is None or class_of_base(config) != family.model_name:
        return dict(base_outline(on_base(load(facts.teacher if teacher is None else teacher), facts.base)).config)
    widened = (*WIDENED_FIELDS, "out_channels")
    base = {key: value for key, value in config.items() if key not in widened} | {"_class_name": class_of_base(config)}
    if not isinstance(family, TextToImageFamily) or config.get("out_channels") is None:
        return base
    # The inverse of what _config() does to them.
    fields, divisor = inspect.signature(family.model_class).parameters, 1
    if facts.policy not in CLASS_PREFIXES:
        divisor = facts.components
    elif "patch_size" in family.config_not_published:
        divisor = fields["patch_size"].default ** 2
    return base | ({"out_channels": config["out_channels"] // divisor} if "out_channels" in fields else {})
