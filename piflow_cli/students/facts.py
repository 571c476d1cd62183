"""The facts that a student states about itself; they travel with its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..core.policies.kinds import policy_kind, policy_names
from ..core.timegrid import TimeGrid
from ..errors import RunError, UsageError
from ..teachers import family_of
from ..wording import few
from .adapter_digests import DIGESTS
from .fact_ranges import out_of_range
from .fused_loras import FusedLora, from_json, to_json
from .stated import METADATA_PREFIX

if TYPE_CHECKING:
    from ..presets.schema import Preset
    from ..weights.stored import StoredWeights

NAMED_FAULTS = 5
_PARSERS = {"int": int, "float": float, "tuple[FusedLora, ...]": from_json}
# A student without them says nothing of them, as those of before 0.2 do.
LORAS = "teacher_loras"


def time_grid(preset: Preset) -> TimeGrid:
    """The time grid of this preset's student."""
    policy, noisiest = preset.policy, family_of(preset.teacher.family).parameterisation.noisiest
    return TimeGrid(policy.nfe, policy.final_step_scale, policy.shift, noisiest)


def has_facts(weights: StoredWeights) -> bool:
    """Whether the metadata hold the facts of a student."""
    return any(name.startswith(METADATA_PREFIX) for name in weights.metadata)


@dataclass(frozen=True)
class StudentFacts:
    """The facts of a student, saved as ``piflow.*`` metadata, so that sampling needs no flags.

    ``teacher``: name of the preset; ``base`` and ``revision``: its weights; ``vae``: what shows its latents, or
    nothing; ``segment``: raw length that a DX policy spans; ``substeps``: per unit of raw time; ``temperature``: a
    number or ``auto``; ``guidance``: distilled in; ``teacher_loras``: fused into the base.
    """

    teacher: str
    family: str
    base: str
    policy: str
    components: int
    nfe: int
    shift: float
    final_step_scale: float
    segment: float
    substeps: int
    guidance: float
    temperature: str
    logstd_width: int
    iterations: int = 0
    revision: str = ""
    vae: str = ""
    base_dtype: str = "float32"
    version: str = __version__
    teacher_loras: tuple[FusedLora, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """The facts as safetensors metadata: every value a string."""
        told = {METADATA_PREFIX + name: str(value) for name, value in asdict(self).items() if name != LORAS}
        return told | ({METADATA_PREFIX + LORAS: to_json(self.teacher_loras)} if self.teacher_loras else {})

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> StudentFacts:
        """Read the facts back; raises RunError naming what is missing, malformed, out of range or unknown."""
        values: dict[str, Any] = {}
        known = {METADATA_PREFIX + field.name for field in fields(cls)} | set(DIGESTS)
        faults = [
            f"{name} is unknown" for name in sorted(metadata) if name.startswith(METADATA_PREFIX) and name not in known
        ]
        for field in fields(cls):
            text = metadata.get(METADATA_PREFIX + field.name)
            try:
                if text is None and field.name != LORAS:
                    faults.append(f"{METADATA_PREFIX}{field.name} is missing")
                elif text is not None:
                    values[field.name] = _PARSERS.get(field.type, str)(text)
            except ValueError:
                faults.append(f"{METADATA_PREFIX}{field.name} is {text!r}")
        if "policy" in values and values["policy"] not in policy_names():
            raise RunError(
                f"the student has a policy of unknown type '{values['policy']}'", "update it: pip install -U piflow"
            )
        faults += [METADATA_PREFIX + fault for fault in out_of_range(values)]
        if faults:
            raise RunError(
                "the student does not say how to sample it: " + few(faults, NAMED_FAULTS, "; "),
                "use a student that `piflow distill` saved, or: pip install -U piflow",
            )
        return cls(**values)

    @classmethod
    def of(cls, preset: Preset) -> StudentFacts:
        """The facts that a student of this preset will have."""
        policy, teacher, adapter = preset.policy, preset.teacher, preset.adapter
        return cls(
            teacher=preset.name,
            family=teacher.family,
            base=teacher.base,
            revision="" if teacher.revision is None else teacher.revision,
            vae="" if teacher.vae is None else teacher.vae,
            base_dtype="float32" if adapter is None or adapter.base_precision == "fp32" else "bfloat16",
            policy=policy.kind,
            components=policy.components,
            nfe=policy.nfe,
            shift=policy.shift,
            final_step_scale=policy.final_step_scale,
            segment=time_grid(preset).segment,
            substeps=policy.substeps,
            guidance=teacher.guidance,
            temperature=str(policy.temperature),
            logstd_width=policy.logstd_width,
        )

    def base_at(self, other: str | None = None) -> tuple[str, str | None]:
        """The place of the base, and its revision on the Hub; None is the newest.

        It is the base that the student was trained on, or the newest revision of ``other`` in its place.
        """
        return (self.base, self.revision or None) if other is None else (other, None)

    @property
    def base_precision(self) -> str:
        """``base_dtype`` as `--base-precision` has it."""
        return "fp32" if self.base_dtype == "float32" else "bf16"

    @property
    def has_own_segment(self) -> bool:
        """Whether the policy spans a segment of raw time that it was trained with, as DX policies do."""
        return policy_kind(self.policy).own_segment

    @property
    def sampling_temperature(self) -> float | str:
        """``auto`` or a number, as :class:`~piflow_cli.students.scheduler.PolicyScheduler` takes it."""
        return "auto" if self.temperature == "auto" else float(self.temperature)

    def sampling_shift(self, shift: float | None) -> float:
        """``shift`` where it is given, else the student's own.

        Raises UsageError for another shift of a DX policy, whose points are even in its own raw time.
        """
        if shift is not None and shift != self.shift and self.has_own_segment:
            raise UsageError(
                f"the shift {self.shift:g} is part of a {self.policy} policy: {shift:g} is another", "leave --shift out"
            )
        return self.shift if shift is None else shift
