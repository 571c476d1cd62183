"""Whether stored tensors are those of a student: names, shapes, and ranks of adapters."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import RunError
from ..teachers.base import Network
from ..weights.stored import StoredWeights
from ..wording import few
from .adapter_configs import OTHER_BASE, OTHER_CONFIG
from .published import no_head, published_names
from .shared_base import View
from .student import Student

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


def ranks_of(weights: StoredWeights) -> dict[str, int]:
    """Rank of the adapter at each dotted path; raises RunError for a factor that is no matrix."""
    firsts = {name.removesuffix(LORA_A): shape for name, shape in weights.shapes.items() if name.endswith(LORA_A)}
    if wrong := [path for path, shape in firsts.items() if len(shape) != 2 or 0 in shape]:
        raise RunError(
            f"{weights.path} is damaged: {wrong[0]}{LORA_A} is {tuple(firsts[wrong[0]])}, no matrix", "copy it again"
        )
    return {path: shape[0] for path, shape in firsts.items()}


def check_ranks(ranks: Mapping[str, int], model: Network) -> None:
    """Raise RunError where an adapter has no linear layer, or a rank above what its layer can use."""
    modules = dict(model.named_modules())
    if absent := sorted(path for path in ranks if not hasattr(modules.get(path), "in_features")):
        raise RunError(f"the adapter has weights for {absent[0]}, which the base lacks", OTHER_BASE)
    for path, rank in ranks.items():
        widest = max(modules[path].in_features, modules[path].out_features)
        if rank > widest:
            raise RunError(f"the adapter of {path} has rank {rank}, and the layer is {widest} wide", OTHER_BASE)


def refuse_misfits(student: Student, weights: StoredWeights, expected: Mapping[str, torch.Size]) -> None:
    """Raise RunError where ``weights`` have other names or shapes than ``expected``; ranks of adapters may differ."""
    expected = {name: _at_rank(name, shape, weights) for name, shape in expected.items()}
    facts, head = student.facts, list(published_names(student).values())
    if not any(name in weights for name in head):
        raise no_head(weights.path, adapters=any(name.endswith(LORA_A) for name in weights))
    faults = [f"{name} is missing" for name in expected if name not in weights]
    faults += [f"{name} is unknown" for name in weights if name not in expected]
    wrong = [name for name in expected if name in weights and weights.shapes[name] != expected[name]]
    faults += [f"{name} is {tuple(weights.shapes[name])}, not {tuple(expected[name])}" for name in wrong]
    whole = [name for name in weights if not weights.dtypes[name].is_floating_point]
    faults += [f"{name} is stored in {weights.dtypes[name]}, not in floats" for name in whole]
    if head[0] in wrong and (rows := weights.shapes[head[0]][0] * facts.components) % expected[head[0]][0] == 0:
        faults.insert(
            0, f"its head has {rows // expected[head[0]][0]} components, and it is said to have {facts.components}"
        )
    if faults:
        hint = f"{OTHER_CONFIG}; {OTHER_BASE}" if isinstance(student.model, View) else OTHER_CONFIG
        raise RunError(
            f"{weights.path} does not fit a {facts.policy} student of {facts.teacher}: {few(faults, separator='; ')}",
            hint,
        )


def _at_rank(name: str, shape: torch.Size, weights: StoredWeights) -> torch.Size:
    """The shape of a tensor, for a factor of an adapter at the rank that its first factor has in ``weights``."""
    first = name.removesuffix(LORA_B) + LORA_A if name.endswith(LORA_B) else name
    if not name.endswith((LORA_A, LORA_B)) or len(weights.shapes.get(first, ())) != 2:
        return shape
    rank = weights.shapes[first][0]
    return torch.Size((rank, shape[1]) if name.endswith(LORA_A) else (shape[0], rank))
