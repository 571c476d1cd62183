"""Students on disk, in the layout of the published adapters: config.json and one safetensors file with its metadata.

Names of the head: ``proj_out_means``, ``proj_out_logweights``, ``proj_out_logstds`` for GM; the projection's own name for
DX. A fully trained student brings all its weights. One that shares its base brings pairs ``<module>.lora_A.weight`` and
``<module>.lora_B.weight`` whose product counts once, its head, and what it trained in full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .core.heads import DXHead
from .errors import RunError, UsageError
from .files import replacing_folder
from .foreign import class_of_base, facts_of_foreign
from .student import METADATA_PREFIX, Student, StudentFacts, loaded_student, widen
from .teachers import family_of
from .teachers.base import TeacherFamily
from .teachers.locate import locate
from .views import root

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
GM_FIELDS = ("num_gaussians", "constant_logstd", "logstd_inner_dim", "gm_num_logstd_layers", "logweights_channels")


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
    metadata = {"format": "pt", "policy_config": json.dumps(_policy_config(student.facts)), **student.facts.to_metadata()}
    with replacing_folder(folder) as aside:
        (aside / CONFIG_NAME).write_text(json.dumps(_config(student), indent=2) + "\n")
        save_file(adapter_tensors(student), aside / WEIGHTS_NAME, metadata)


def load_adapter(
    folder: Path,
    *,
    base: str | None = None,
    teacher: str | None = None,
    dtype: torch.dtype | None = torch.float32,
    say: Callable[[str], None] = lambda line: None,
) -> Student:
    """Read a student from an adapter folder.

    Args:
        folder: holds the student as `piflow distill` or a published repository has it.
        base: where the base of a student with adapters is, in place of what the student says.
        teacher: the preset whose values hold where the student says nothing of itself.
        dtype: of the base of a student with adapters; None: as it was trained.
        say: takes a line on what was assumed.

    Raises:
        UsageError: ``folder`` is no student, or the base is of another architecture.
        RunError: files are corrupt, do not belong together or hold values that are not finite.
    """
    weights = _weights_of(folder)
    metadata, found = read_safetensors(weights)
    tensors = {name.removeprefix("transformer."): value for name, value in found.items()}
    config = _read_config(folder / CONFIG_NAME)
    if any(name.endswith(LORA_A) for name in tensors):
        student = _on_its_base(config, metadata, tensors, base, teacher, dtype, say)
    else:
        facts = StudentFacts.from_metadata(metadata)
        family = family_of(facts.family, facts.guidance)
        with torch.random.fork_rng(devices=[]):
            student = widen(family.build(_base_config(config)), family, facts)
    _load_tensors(student, tensors, weights)
    return student


def read_facts(folder: Path, *, teacher: str | None = None, say: Callable[[str], None] = lambda line: None) -> StudentFacts:
    """What the student in ``folder`` says of itself, without its weights; arguments and errors are those of :func:`load_adapter`."""
    weights = _weights_of(folder)
    return _facts(_read_config(folder / CONFIG_NAME), read_metadata(weights), teacher, say)


def _weights_of(folder: Path) -> Path:
    weights = folder / WEIGHTS_NAME
    if not weights.is_file() or not (folder / CONFIG_NAME).is_file():
        raise UsageError(
            f"{folder} is not a student: it lacks {CONFIG_NAME} or {WEIGHTS_NAME}",
            "name a run folder or an adapter folder that `piflow distill` wrote",
        )
    return weights


def _facts(
    config: Mapping[str, Any], metadata: Mapping[str, str], teacher: str | None, say: Callable[[str], None]
) -> StudentFacts:
    if any(name.startswith(METADATA_PREFIX) for name in metadata):
        return StudentFacts.from_metadata(metadata)
    return facts_of_foreign(config, metadata, teacher, say)


def _on_its_base(
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    base: str | None,
    teacher: str | None,
    dtype: torch.dtype | None,
    say: Callable[[str], None],
) -> Student:
    """A student with adapters on its base, its own weights still to be loaded."""
    facts = _facts(config, metadata, teacher, say)
    family = family_of(facts.family, facts.guidance)
    revision = facts.revision if facts.revision and base is None else None
    model = family.load(locate(facts.base if base is None else base, revision), getattr(torch, facts.base_dtype) if dtype is None else dtype)
    _check_architecture(config, model, family)
    ranks = {name.removesuffix(LORA_A): value.shape[0] for name, value in tensors.items() if name.endswith(LORA_A)}
    absent = [path for path in ranks if path not in dict(model.named_modules())]
    if absent:
        raise RunError(f"the adapter has weights for {absent[0]}, which the base lacks", "use the base it was trained on: --base PATH")
    return loaded_student(model, family, facts, ranks)


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; raises RunError where it is corrupt or cut short."""
    with _opened(path) as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, without its tensors; raises RunError where it is corrupt or cut short."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise RunError(f"{path} is corrupt or cut short: {error}", f"copy it again, or remove it: rm {path}") from error


def _load_tensors(student: Student, tensors: dict[str, Tensor], path: Path) -> None:
    published = _published_names(student)
    own = {published.get(name, name): name for name in student.model.state_dict()}
    shapes = {name: value.shape for name, value in student.model.state_dict().items()}
    faults = [f"{name} is missing" for name in own if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in own]
    for name in own.keys() & tensors.keys():
        if tensors[name].shape != shapes[own[name]]:
            faults.append(f"{name} is {tuple(tensors[name].shape)}, not {tuple(shapes[own[name]])}")
        elif not tensors[name].isfinite().all():
            faults.append(f"{name} has values that are not finite")
    if faults:
        more = f" (and {len(faults) - 3} more faults)" if len(faults) > 3 else ""
        raise RunError(
            f"{path} does not fit a {student.facts.policy} student of {student.facts.teacher}: " + "; ".join(faults[:3]) + more,
            "use the config.json that was saved with these weights, or distil again",
        )
    student.model.load_state_dict({own[name]: value for name, value in tensors.items()})


def _check_architecture(config: Mapping[str, Any], model: nn.Module, family: TeacherFamily) -> None:
    """Raise UsageError where adapter and base differ in a field that both have."""
    widened = {*GM_FIELDS, *family.config_not_published, "out_channels"}
    for key in sorted(config.keys() - widened):
        theirs = model.config.get(key, config[key])
        if not key.startswith("_") and _plain(theirs) != _plain(config[key]):
            raise UsageError(
                f"the adapter was trained on a base with {key} {config[key]}, and this one has {_plain(theirs)}",
                "use the base it was trained on: --base PATH",
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _published_names(student: Student) -> dict[str, str]:
    """Our state-dict names of the head → its published ones."""
    site = student.family.head_site(student.model)
    head = student.model.get_submodule(site.projection)
    if isinstance(head, DXHead):
        return {f"{site.projection}.grid.{part}": f"{site.projection}.{part}" for part in nn.Module.state_dict(head.grid)}
    return {f"{site.projection}.{name}": f"proj_out_{name}" for name in nn.Module.state_dict(head)}


def _policy_config(facts: StudentFacts) -> dict:
    if facts.policy == "gm":
        return {"type": "GMFlow"}
    mode = {"mode": "polynomial"} if facts.policy == "dx-poly" else {}
    return {"type": "DX", "segment_size": facts.segment, "shift": facts.shift, **mode}


def _config(student: Student) -> dict:
    """The base's config, widened: class name and fields as the published adapters have them."""
    facts, family, model = student.facts, student.family, root(student.model)
    config = json.loads(model.to_json_string())
    site = family.head_site(model)
    if facts.policy == "gm":
        if "patch_size" in family.config_not_published and config["out_channels"] is not None:
            # Without a patch size the published classes count the channels of a whole token.
            config["out_channels"] *= config["patch_size"] ** 2
        config = {key: value for key, value in config.items() if key not in family.config_not_published}
        config["_class_name"] = "GM" + config["_class_name"]
        values = (facts.components, None, facts.logstd_width, 2, site.patch)
        config.update(zip(GM_FIELDS, values, strict=True))
    else:
        config["out_channels"] = model.out_channels if site.unpatchify else facts.components * model.out_channels
    return config


def _read_config(path: Path) -> dict[str, Any]:
    """A config; raises RunError where the file is no JSON object that names a class."""
    try:
        config = json.loads(path.read_text())
        config["_class_name"].removeprefix("GM")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not the config of a model", "copy it again, or distil again") from error
    return config


def _base_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The base's config back from the widened one."""
    widened = (*GM_FIELDS, "out_channels")
    return {key: value for key, value in config.items() if key not in widened} | {"_class_name": class_of_base(config)}
