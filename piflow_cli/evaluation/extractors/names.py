"""Names of extractors and resize modes, as they stand in reports and in files of statistics."""

from __future__ import annotations

INCEPTION = "inception-2015-12-05"
INCEPTION_FEATURES = 2048
RESIZE_CLEAN = "clean, 299 (bicubic, antialiased, float)"
RESIZE_TENSORFLOW = "tensorflow, 299 (bilinear, inside the network)"
