"""Diversity of the pictures of one label or prompt, beside that of the teacher's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import UsageError
from ...sampling.request import ImageSpec
from ..candidates import Candidate
from ..chosen_extractors import ChosenExtractor
from ..rows import Row

if TYPE_CHECKING:
    from ..compared import Compared
    from ..measuring import Measuring


def refuse(compared: Compared) -> None:
    """Raise UsageError where every label or prompt comes once."""
    if not _comes_twice(group_numbers(compared.specs)):
        raise UsageError(
            "--metrics diversity: no label or prompt comes twice, so no two pictures can be compared",
            # Labels follow the seeds, so that more seeds alone may have labels of their own.
            "give it more: --seeds 0-3" if compared.text else "give one label several seeds: --labels 0 --seeds 0-3",
        )


def diversities(measuring: Measuring) -> Iterator[Row]:
    specs = measuring.generation.aligned
    groups = group_numbers(specs)
    if not _comes_twice(groups):
        measuring.note(f"no diversity: no label or prompt comes twice among {len(specs)} pictures")
        return
    chosen = measuring.all_chosen[0]
    spreads = [_spread(measuring, candidate, chosen, groups) for candidate in (measuring.fine, *measuring.candidates)]
    if spreads[0] == 0:
        name = chosen.extractor.name
        measuring.note(f"no diversity: to {name} all of the teacher's pictures of one label or prompt are the same")
        return
    names = {"extractor": chosen.extractor.name, "resize": chosen.extractor.resize, "reference": measuring.fine_name}
    for candidate, spread in zip(measuring.candidates, spreads[1:]):
        yield measuring.row(candidate, "diversity", spread / spreads[0], len(specs), **names)


def group_numbers(specs: Sequence[ImageSpec]) -> Tensor:
    """The number of each picture's label or prompt, (N,) int64."""
    return torch.tensor([spec.label if spec.number is None else spec.number for spec in specs])


def _comes_twice(groups: Tensor) -> bool:
    return Counter(groups.tolist()).most_common(1)[0][1] >= 2


def _spread(measuring: Measuring, candidate: Candidate, chosen: ChosenExtractor, groups: Tensor) -> float:
    return diversity(torch.cat(list(measuring.generation.features(candidate, chosen.tag, aligned=True))), groups)


def diversity(features: Tensor, groups: Tensor) -> float:
    """Mean distance of two different samples of one prompt or class, mean over those with at least two samples.

    Args:
        features: (N, D).
        groups: (N,) integers; samples of the same prompt or class share one.

    Raises:
        UsageError: no group has two samples.
    """
    distances = []
    for group in groups.unique().tolist():
        members = features[groups == group].double()
        if len(members) > 1:
            distances.append(torch.pdist(members).mean().item())
    if not distances:
        raise UsageError(
            "diversity compares pictures of the same prompt or class, and there is one of each",
            "give several pictures of one prompt or label",
        )
    return sum(distances) / len(distances)
