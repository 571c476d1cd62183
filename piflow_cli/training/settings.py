"""Settings of a training derived from a preset: cuts of the batch, the time grid, the constants of imitation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.constants import ImitationConfig
from ..core.policies.kinds import policy_kind
from ..core.timegrid import TimeGrid
from ..errors import UsageError
from ..teachers.base import guidance_of

if TYPE_CHECKING:
    from ..presets.schema import Preset


@dataclass(frozen=True)
class BatchPlan:
    """Cuts of the global batch.

    There are ``accumulation`` rounds of ``device_batch`` trajectories or samples on each of ``processes``.
    """

    processes: int
    device_batch: int
    accumulation: int

    def __str__(self) -> str:
        parts = f"{self.processes} x {self.device_batch} x {self.accumulation}"
        return (
            f"{self.processes * self.device_batch * self.accumulation} = {parts} (processes x device batch x"
            " accumulation)"
        )


def batch_plan(preset: Preset, processes: int) -> BatchPlan:
    """Derive the accumulation; raises UsageError where the global batch cannot be cut evenly."""
    total, wanted = preset.optimisation.batch_size, preset.optimisation.device_batch_size
    if total % processes:
        raise UsageError(
            f"a batch of {total} cannot be shared by {processes} processes",
            f"choose a multiple: --batch-size {processes * max(1, round(total / processes))}",
        )
    device_batch = total // processes if wanted is None else wanted
    if total % (processes * device_batch):
        raise UsageError(
            f"a batch of {total} is no multiple of {processes} processes x device_batch_size {device_batch}",
            "choose another: --set optimisation.device_batch_size=N",
        )
    return BatchPlan(processes, device_batch, total // (processes * device_batch))


def time_grid(preset: Preset) -> TimeGrid:
    """The time grid of this preset's student."""
    return TimeGrid(preset.policy.nfe, preset.policy.final_step_scale, preset.policy.shift)


def imitation_config(preset: Preset) -> ImitationConfig:
    """The constants of a pi-ID step under this preset."""
    imitation, mixes = preset.imitation, "imitation.dropout" in policy_kind(preset.policy.kind).settings
    return ImitationConfig(
        grid=time_grid(preset),
        states=imitation.states,
        window=imitation.window,
        substeps=preset.policy.substeps,
        dropout=imitation.dropout if mixes else 0.0,
        components=preset.policy.components if mixes else 0,
        loss_scale=imitation.loss_scale,
        states_per_query=imitation.states_per_query,
    )


def network_evaluations(preset: Preset) -> int:
    """Network evaluations of one iteration, each of one state of one sample.

    A segment takes one for the student's forward pass, two for its backward pass, one more where checkpointing computes
    it again, and one for every state that the teacher is asked for, or two under classifier-free guidance. A
    trajectory has all segments, a sample one.
    """
    asked = 1 if guidance_of(preset.teacher).scale == 1 else 2
    student = 4 if preset.optimisation.gradient_checkpointing else 3
    segments = preset.policy.nfe if preset.data_free else 1
    return preset.optimisation.batch_size * segments * (student + asked * preset.imitation.states)
