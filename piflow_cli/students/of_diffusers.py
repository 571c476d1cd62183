"""DX students as diffusers has them: a network of its own class, wider, beside the settings of a PiflowScheduler.

That is what ``piflow export --format piflow-scheduler`` writes, with facts of ours in the weights. Others have none, as
Kandinsky 6's: a preset gives the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core.policies.kinds import policy_kinds
from ..core.timegrid import TimeGrid
from ..errors import UsageError
from ..presets.resolve import load
from ..teachers import family_of
from ..teachers.folders import on_base
from .facts import StudentFacts
from .published import base_outline, first_preset
from .stock_settings import OTHER, SCHEDULER, StockSettings

if TYPE_CHECKING:
    from ..presets.schema import Preset
    from ..teachers.base import TeacherFamily


def facts_of_stock(
    config: Mapping[str, Any] | None,
    settings: StockSettings,
    teacher: str | None,
    base: str | None,
    say: Callable[[str], None],
) -> StudentFacts:
    """Facts of a student of diffusers: points and times by the ``settings``, the rest by a preset.

    That is ``teacher``, or the first shipped one of the class that its ``config`` names. A segment is that of as many
    evaluations as it was trained for.

    Raises:
        UsageError: its config is not that of so many points, no preset is for its class, or the base of the preset is
            of other sizes.
    """
    if config is None:
        raise UsageError(f"there is no config.json beside the weights of a student with a {SCHEDULER}", OTHER)
    kind = next(kind for kind in policy_kinds() if kind.published.scheduler == SCHEDULER)
    preset = first_preset(config, kind) if teacher is None else load(teacher)
    family = family_of(preset.teacher.family)
    _check_points(config, family, settings)
    if base is None:
        _check_sizes(config, preset)
    preset = replace(preset, teacher=on_base(preset.teacher, base))
    say(f"the student does not say how it was trained: the values of the preset {preset.name} hold")
    nfe = preset.policy.nfe if settings.nfe is None else settings.nfe
    return replace(
        StudentFacts.of(preset),
        policy=kind.name,
        components=settings.components,
        nfe=nfe,
        shift=settings.shift,
        final_step_scale=settings.final_step_scale,
        segment=TimeGrid(nfe, settings.final_step_scale, settings.shift).segment,
        substeps=settings.substeps,
    )


def _check_points(config: Mapping[str, Any], family: TeacherFamily, settings: StockSettings) -> None:
    given, taken = config.get(family.output_field), config.get(family.input_field)
    if not isinstance(given, int) or not isinstance(taken, int) or given != settings.components * taken:
        raise UsageError(
            f"its config.json says {family.output_field} {given!r}, which is not {settings.components} points (n_grid"
            f" of its scheduler) of {taken!r} channels each",
            OTHER,
        )


def _check_sizes(config: Mapping[str, Any], preset: Preset) -> None:
    """Raise UsageError where the student is not of the sizes of the preset's base."""
    theirs = dict(base_outline(preset.teacher).config)
    # Sound has as many points as the video.
    shared = (key for key in sorted(config.keys() & theirs.keys()) if not key.startswith(("_", "out_")))
    for key in shared:
        if isinstance(config[key], int) and config[key] != theirs[key]:
            raise UsageError(
                f"the student has {key} {config[key]}, and the base of the preset {preset.name} has {theirs[key]}",
                "name the base of its own teacher",
            )
