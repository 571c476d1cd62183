"""What a preset may say: frozen dataclasses whose annotations are the constraints and whose comments are the manual."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, PlainValidator, Strict

PolicyKind = Literal["gm", "dx", "dx-poly"]
POLICY_KINDS: tuple[str, ...] = get_args(PolicyKind)

SECTION = ConfigDict(extra="forbid", allow_inf_nan=False)


def check_temperature(value: object) -> float | str:
    """`auto` or a number in (0, 1]; raises ValueError otherwise."""
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(f"must be auto or a number above 0 and at most 1, not {value!r}")
    return float(value)


# Strict: a quoted "3" or a `yes` where a number belongs is a slip to report, not a value to convert.
Text = Annotated[str, Field(min_length=1)]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
Positive = Annotated[float, Strict(), Field(gt=0)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Probability = Annotated[float, Strict(), Field(ge=0, lt=1)]
Temperature = Annotated[float | Literal["auto"], PlainValidator(check_temperature)]


@dataclass(frozen=True)
class TeacherSection:
    """The model that is imitated, and the guidance it is imitated with."""

    __pydantic_config__ = SECTION

    family: Text  # the file under teachers/ that knows its packing and conditioning
    base: Text  # Hub id, local folder, or preset:NAME for a folder shipped beside the presets
    license: Text  # of the weights, and of the data where it is shipped
    memory: Text  # what a run needs, for people: "1 GB RAM", "24 GB VRAM"
    revision: Text | None = None  # commit or tag on the Hub; none: the newest
    guidance: Annotated[float, Strict(), Field(ge=1)] = 1.0  # classifier-free guidance scale; 1 is none
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)  # lowest and highest sigma at which it acts
    guidance_mode: Literal["plain", "orthogonal"] = "plain"


@dataclass(frozen=True)
class PolicySection:
    """The policy the student emits, and the time grid it is rolled on."""

    __pydantic_config__ = SECTION

    kind: PolicyKind
    components: Count  # mixture components of gm; grid points of dx; terms of dx-poly
    nfe: Count  # network evaluations per image
    final_step_scale: Annotated[float, Strict(), Field(gt=0, le=1)] = 1.0  # length of the last segment over the others'
    shift: Positive = 1.0  # of the time grid towards noise; 1 is none
    substeps: Count = 128  # policy substeps per unit of raw time
    temperature: Temperature = "auto"  # of the mixture when sampling, on all steps but the last
    logstd_width: Count = 1024  # hidden width of the network that predicts the log-std


@dataclass(frozen=True)
class DataSection:
    """What training starts from."""

    __pydantic_config__ = SECTION

    images: Text  # safetensors file of images and labels; preset:FILE is shipped beside the presets


@dataclass(frozen=True)
class ImitationSection:
    """How policy imitation draws states and compares velocities."""

    __pydantic_config__ = SECTION

    states: Count  # intermediate states per student evaluation
    window: Whole  # micro-window, in substeps; 0 compares the velocity at the state itself
    dropout: Probability  # of whole mixture components on the rollout; gm only
    mixing_iterations: Whole  # over which the teacher's share of the trajectory falls to zero; 0: none
    loss_scale: Positive
    data_free: Flag  # start at noise and walk the student's own segments, in place of noised data


@dataclass(frozen=True)
class OptimisationSection:
    """How long, how fast and in which precision."""

    __pydantic_config__ = SECTION

    iterations: Count
    batch_size: Count  # global: over all processes and accumulation steps
    learning_rate: Positive
    betas: tuple[Probability, Probability]
    weight_decay: NonNegative
    warmup: Whole  # iterations of linear warm-up
    gradient_clip: Positive  # largest gradient norm, after the warm-up
    precision: Literal["fp32", "bf16"]
    schedule: Literal["constant", "cosine"] = "constant"  # of the rate after the warm-up; cosine falls to zero
    device_batch_size: Count | None = None  # samples in memory at once on a device; none: the whole share of the batch
    ema_gamma: Positive = 7.0  # of the power-law average
    gradient_checkpointing: Flag = False
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"


@dataclass(frozen=True)
class OutputSection:
    """What is left on disk, and how often."""

    __pydantic_config__ = SECTION

    preview_every: Whole  # iterations between previews; 0: none
    checkpoint_every: Count  # iterations between checkpoints
    keep_checkpoints: Count  # how many of the newest stay
    tracker: Literal["none", "tensorboard", "wandb"] = "none"


@dataclass(frozen=True)
class Preset:
    """One distillation, resolved: everything that shapes its result."""

    __pydantic_config__ = SECTION

    name: Text
    summary: Text
    teacher: TeacherSection
    policy: PolicySection
    data: DataSection
    imitation: ImitationSection
    optimisation: OptimisationSection
    output: OutputSection
    seed: Seed = 0


SECTIONS: dict[str, type] = {
    "teacher": TeacherSection,
    "policy": PolicySection,
    "data": DataSection,
    "imitation": ImitationSection,
    "optimisation": OptimisationSection,
    "output": OutputSection,
}


def contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted key and fault of every pair of values that exclude each other, among the sections that are valid alone."""
    teacher, policy = sections.get("teacher"), sections.get("policy")
    imitation, optimisation = sections.get("imitation"), sections.get("optimisation")
    if teacher is not None:
        low, high = teacher.guidance_interval
        if low > high:
            yield "teacher.guidance_interval", f"must run from low to high sigma, not from {low:g} to {high:g}"
    if optimisation is not None:
        yield from _optimisation_contradictions(optimisation)
    if policy is not None and imitation is not None:
        longest = segment_substeps(policy)
        if imitation.window > longest:
            yield (
                "imitation.window",
                f"is {imitation.window} substeps, longer than a segment, which has {longest} "
                f"(policy.nfe {policy.nfe}, policy.substeps {policy.substeps})",
            )


def segment_substeps(policy: PolicySection) -> int:
    """Substeps of the longest segment: round(substeps / (nfe - 1 + final_step_scale)), at least 1.

    Segments are even in raw time but for the last (pi-Flow, arXiv 2510.14974); with one evaluation the last is the
    only one and spans all of raw time.
    """
    segment = 1.0 if policy.nfe == 1 else 1.0 / (policy.nfe - 1 + policy.final_step_scale)
    return max(1, round(policy.substeps * segment))


def _optimisation_contradictions(optimisation: OptimisationSection) -> Iterator[tuple[str, str]]:
    size = optimisation.device_batch_size
    if size is not None and size > optimisation.batch_size:
        yield (
            "optimisation.device_batch_size",
            f"is {size} and must not exceed optimisation.batch_size, {optimisation.batch_size}",
        )
