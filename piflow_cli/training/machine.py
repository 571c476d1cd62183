"""The demands of a preset on this machine, which a run and its plan refuse alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..presets.choices import NO_TRACKER
from ..system.trackers import tracker_of
from ..weights.quantisation import check_offloading, check_precision

if TYPE_CHECKING:
    from ..presets.schema import Preset


def check_machine(preset: Preset, device: torch.device) -> None:
    """Raise UsageError where ``device`` or the installed packages lack what ``preset`` asks for."""
    if preset.output.tracker != NO_TRACKER:
        tracker_of(preset.output.tracker)
    if preset.adapter is not None:
        check_precision(preset.adapter.base_precision, device, trained=True)
        if preset.adapter.offload_base:
            check_offloading("base", device)
    if preset.data.offload_text_encoder:
        check_offloading("text encoder", device)
