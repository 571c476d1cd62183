"""Students on disk, in the layout of the published adapters: config.json and one safetensors file with its metadata.

Names of the head: ``proj_out_means``, ``proj_out_logweights``, ``proj_out_logstds`` for GM; the projection's own name for
DX. A fully trained student brings all its weights.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .core.heads import DXHead
from .errors import RunError, UsageError
from .files import replacing_folder
from .student import METADATA_PREFIX, Student, StudentFacts, widen
from .teachers import family_of

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
GM_FIELDS = ("num_gaussians", "constant_logstd", "logstd_inner_dim", "gm_num_logstd_layers", "logweights_channels")


def adapter_tensors(student: Student) -> dict[str, Tensor]:
    """The student's weights under their published names, on the CPU."""
    names = _published_names(student)
    return {names.get(name, name): value.detach().cpu().contiguous() for name, value in student.model.state_dict().items()}


def save_adapter(student: Student, folder: Path) -> None:
    """Write the student to ``folder``, aside first; an adapter that is there already stays whole until then."""
    metadata = {"format": "pt", "policy_config": json.dumps(_policy_config(student.facts)), **student.facts.to_metadata()}
    with replacing_folder(folder) as aside:
        (aside / CONFIG_NAME).write_text(json.dumps(_config(student), indent=2) + "\n")
        save_file(adapter_tensors(student), aside / WEIGHTS_NAME, metadata)


def load_adapter(folder: Path) -> Student:
    """Read a student from an adapter folder.

    Raises UsageError where ``folder`` is none, RunError where its files are corrupt, do not belong together or hold
    values that are not finite.
    """
    weights = folder / WEIGHTS_NAME
    if not weights.is_file() or not (folder / CONFIG_NAME).is_file():
        raise UsageError(
            f"{folder} is not a student: it lacks {CONFIG_NAME} or {WEIGHTS_NAME}",
            "name a run folder or an adapter folder that `piflow distill` wrote",
        )
    metadata, tensors = read_safetensors(weights)
    facts = StudentFacts.from_metadata(metadata)
    if facts.policy not in ("gm", "dx", "dx-poly"):
        raise RunError(f"{weights} holds a policy of unknown type '{facts.policy}'", "update piflow")
    family = family_of(facts.family)
    with torch.random.fork_rng(devices=[]):
        student = widen(family.build(_base_config(folder / CONFIG_NAME)), family, facts)
    _load_tensors(student, tensors, weights)
    return student


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; raises RunError where it is corrupt or cut short."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
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


def _published_names(student: Student) -> dict[str, str]:
    """Our state-dict names of the head → its published ones."""
    site = student.family.head_site(student.model)
    head = student.model.get_submodule(site.projection)
    if isinstance(head, DXHead):
        return {f"{site.projection}.grid.{part}": f"{site.projection}.{part}" for part in ("weight", "bias")}
    return {f"{site.projection}.{name}": f"proj_out_{name}" for name in nn.Module.state_dict(head)}


def _policy_config(facts: StudentFacts) -> dict:
    if facts.policy == "gm":
        return {"type": "GMFlow"}
    mode = {"mode": "polynomial"} if facts.policy == "dx-poly" else {}
    return {"type": "DX", "segment_size": facts.segment, "shift": facts.shift, **mode}


def _config(student: Student) -> dict:
    """The base's config, widened: class name and fields as the published adapters have them."""
    facts, config = student.facts, json.loads(student.model.to_json_string())
    if facts.policy == "gm":
        config["_class_name"] = "GM" + config["_class_name"]
        patch = student.family.head_site(student.model).patch
        values = (facts.components, None, facts.logstd_width, 2, patch)
        config.update(zip(GM_FIELDS, values, strict=True))
    else:
        config["out_channels"] = student.model.out_channels
    return config


def _base_config(path: Path) -> dict:
    """The base's config back from the widened one; raises RunError where the file is no JSON object."""
    try:
        config = json.loads(path.read_text())
        name = config["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not the config of a model", "copy it again, or distil again") from error
    widened = (*GM_FIELDS, "out_channels")
    return {key: value for key, value in config.items() if key not in widened} | {"_class_name": name.removeprefix("GM")}
