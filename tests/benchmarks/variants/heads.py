"""Idea 5: a head of its own for each of two segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from piflow_cli.core.policies.gmflow import GM, GMHead
from piflow_cli.core.policies.kinds import PublishedNames
from piflow_cli.teachers.dit_network import DiT

from .pieces import replace_mixtures, wrap

BETWEEN = 0.75  # students of two evaluations are asked at the noise levels 1 and 1/2 alone


class SegmentHead(GMHead):
    """Two heads of a mixture, of which the noise level ``sigma`` (B,) of each sample chooses one."""

    sigma: Tensor | None = None

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.later = GMHead(*given, **options)

    def forward(self, tokens: Tensor) -> Tensor:
        assert self.sigma is not None, "the network has told it"
        self.later.embedding = self.embedding
        first, later = super().forward(tokens), self.later(tokens)
        sigma, self.sigma = self.sigma, None
        return torch.where((sigma > BETWEEN).reshape(-1, *[1] * (first.ndim - 1)), first, later)


BY_SEGMENT = replace(GM, head=SegmentHead, published=PublishedNames("gm-by-segment", class_prefix=None))


def by_segment() -> None:
    """Put the family in place, and tell its heads the noise levels of what they are asked for."""

    def around(forward: Callable[..., Any]) -> Callable[..., Any]:
        def told(self: DiT, x: Tensor, sigma: Tensor, *others: Any, **options: Any) -> Any:
            head = self.proj_out_2
            if isinstance(head, SegmentHead):
                head.sigma = sigma
            return forward(self, x, sigma, *others, **options)

        return told

    replace_mixtures(f"{__name__}:BY_SEGMENT")
    wrap(DiT, "forward", around)
