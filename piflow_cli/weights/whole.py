"""Weights that are in float32 whatever the dtype of the rest."""

from __future__ import annotations

from torch import nn

from ..core.policies.kinds import head_layers


def is_of_head(name: str) -> bool:
    """Whether a weight is the policy head's, which always stays in float32."""
    return any(part in head_layers() for part in name.split("."))


def stays_whole(name: str, kind: type[nn.Module]) -> bool:
    """Whether a weight of a model of class ``kind`` is in float32, whatever the dtype of the rest.

    It is the policy head's, or diffusers opens it in float32 (``_keep_in_fp32_modules`` of the class).
    """
    kept = getattr(kind, "_keep_in_fp32_modules", None) or ()
    return is_of_head(name) or any(part in kept for part in name.split("."))
