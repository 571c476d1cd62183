"""LoRAs as presets and options write them: PATH, or PATH:SCALE."""

from __future__ import annotations

import math

from piflow_cli.presets.bounds import SCALE

FORM = "PATH or PATH:SCALE"
SUFFIX = ".safetensors"


def split_lora(text: str) -> tuple[str, float]:
    """Path and scale of ``text``; the scale is 1 where what stands behind the last colon is no number."""
    path, colon, scale = text.rpartition(":")
    value = _number(scale)
    return (text, 1.0) if not colon or math.isnan(value) else (path, value)


def written_lora(path: str, scale: float) -> str:
    """The text that :func:`split_lora` reads as ``path`` and ``scale``."""
    return f"{path}:{str(float(scale)).removesuffix('.0')}"


def check_loras(value: object) -> tuple[str, ...]:
    """A list of LoRAs, each with its scale written out; raises ValueError with everything that is wrong with it."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"must be a list of {FORM}, as in [style{SUFFIX}:0.8], not {value!r:.60}")
    if faults := [fault for item in value if (fault := _fault(item)) is not None]:
        raise ValueError("; ".join(faults))
    return tuple(written_lora(*split_lora(item)) for item in value)


def _fault(item: object) -> str | None:
    if not isinstance(item, str) or not item.strip():
        return f"must be a list of {FORM}, as in [style{SUFFIX}:0.8], not of {item!r:.60}"
    path, scale = split_lora(item)
    if path.rpartition(":")[0].endswith(SUFFIX) or (not math.isfinite(scale) and path):
        return f"has the scale {item.rpartition(':')[2]!r}, which is no number"
    if not path:
        return f"names no file: {item!r:.60}"
    return None if (fault := SCALE.fault(abs(scale))) is None else f"has a scale that {fault}"


def _number(text: str) -> float:
    """The number; NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
