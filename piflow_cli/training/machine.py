"""The demands of a preset on this machine, which a run and its plan refuse alike."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch

from ..errors import UsageError
from ..weights.quantisation import check_offloading, check_precision

if TYPE_CHECKING:
    from ..presets.schema import Preset


def check_machine(preset: Preset, device: torch.device) -> None:
    """Raise UsageError where ``device`` or the installed packages lack what ``preset`` asks for."""
    tracker = preset.output.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise UsageError(
            f"the tracker {tracker} is not installed", 'pip install "piflow[trackers]", or --set output.tracker=none'
        )
    if preset.adapter is not None:
        check_precision(preset.adapter.base_precision, device, trained=True)
        if preset.adapter.offload_base:
            check_offloading("base", device)
    if preset.data.offload_text_encoder:
        check_offloading("text encoder", device)
