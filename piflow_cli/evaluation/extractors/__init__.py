"""Feature extractors: from pictures to the vectors whose distributions are compared."""

from __future__ import annotations

from .base import Extractor, centre_patches, open_extractor

__all__ = ["Extractor", "centre_patches", "open_extractor"]
