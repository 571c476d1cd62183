"""What a preset may say: frozen dataclasses whose annotations are the constraints and whose comments are the manual."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict

from piflow_cli.core.policies.kinds import policy_kind, policy_names
from piflow_cli.presets.families import CLASS, TEXT, told
from piflow_cli.presets.types import (
    Batch,
    Components,
    Evaluations,
    Flag,
    Guidance,
    Interval,
    Iterations,
    NonNegative,
    Positive,
    Probability,
    Rate,
    Ratio,
    Seed,
    Share,
    Shift,
    Side,
    Sizes,
    Substeps,
    Temperature,
    Text,
    Width,
    Window,
)

POLICY_KINDS = policy_names()
FEW = 4
PolicyName = Literal[POLICY_KINDS]

SECTION = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class TeacherSection:
    """The model that is imitated, and the guidance it is imitated with."""

    __pydantic_config__ = SECTION

    family: Text  # a row of presets/families.py, whose class knows its packing and conditioning
    # Hub id (owner/name, then a folder or checkpoint inside), local path, or preset:NAME shipped beside the presets
    base: Text
    license: Text  # of the weights, and of the data where it is shipped
    memory: Text  # what a run needs, for people: "1 GB RAM", "24 GB VRAM"
    revision: Text | None = None  # commit or tag on the Hub; none: the newest
    guidance: Guidance = 1.0  # guidance scale; 1 is none
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)  # lowest and highest sigma at which it acts
    guidance_mode: Literal["plain", "orthogonal", "embedded"] = "plain"  # classifier-free, or an input of the network
    config: Text | None = None  # folder of the model's config.json, for a checkpoint without one
    vae: Text | None = (
        None  # of a class-conditional latent model: Hub id or folder of the AutoencoderKL that shows its latents
    )


@dataclass(frozen=True)
class PolicySection:
    """The policy the student emits, and the time grid it is rolled on."""

    __pydantic_config__ = SECTION

    kind: PolicyName
    components: Components  # of gm or momentum; grid points of dx; terms of dx-poly
    nfe: Evaluations  # network evaluations per image
    final_step_scale: Annotated[float, Strict(), Field(gt=0, le=1)] = 1.0  # length of the last segment over the others'
    shift: Shift = 1.0  # of the time grid towards noise; 1 is none
    substeps: Substeps = 128  # policy substeps per unit of raw time
    temperature: Temperature = (
        1.0  # of the mixture when sampling, on all steps but the last; 1 is none; auto is for text-to-image
    )
    logstd_width: Width = 1024  # hidden width of the network that predicts the log-std


@dataclass(frozen=True)
class AdapterSection:
    """A student that shares the frozen teacher's weights and trains low-rank
    adapters; without it all weights are trained."""

    __pydantic_config__ = SECTION

    rank: Width = 256
    alpha: Positive = 256.0  # the adapters' product counts alpha / rank times
    dropout: Probability = 0.05  # on what goes into the adapters
    base_precision: Literal["fp32", "bf16", "int8", "nf4", "fp8"] = (
        "bf16"  # of the frozen weights; int8 and nf4 need CUDA
    )
    offload_base: Flag = (
        False  # keep the frozen weights in the CPU's memory until they are used; needs gradient checkpointing
    )


@dataclass(frozen=True)
class DataSection:
    """What training starts from: at most one of the keys in DATA_SOURCES, and for prompts and pictures their size."""

    __pydantic_config__ = SECTION

    images: Text | None = (
        None  # pictures with labels (a folder, .tar shards, a safetensors file), or a safetensors file of latents
    )
    labels: Literal["uniform"] | None = None  # every class of the teacher equally often; trains without pictures
    prompts: Text | None = None  # .txt, .jsonl, .csv or .parquet file, or Hub dataset; trains without pictures
    captioned: Text | None = None  # pictures with captions: a folder, .tar shards or Hub dataset
    text_column: Text = "text"  # of prompts or captions in .jsonl, .csv, .parquet and Hub datasets
    image_column: Text = "image"  # of pictures in Hub datasets
    split: Text = "train"  # of a Hub dataset
    resolution: Side | None = None  # side of the square in pixels, whose area every bucket has
    aspect_ratio: Ratio = 1.0  # longer over shorter side of the widest bucket; 1: squares
    sizes: Sizes = ()  # the buckets themselves, [width, height] in pixels, in place of resolution
    cache: Text | None = None  # folder of embeddings and latents; none: piflow in the user's cache folder
    offload_text_encoder: Flag = (
        False  # keep the text encoders in the CPU's memory, each layer on the device while it computes
    )

    @property
    def source(self) -> str | None:
        """The one of DATA_SOURCES that is given."""
        return next((name for name in DATA_SOURCES if getattr(self, name) is not None), None)


DATA_SOURCES = ("images", "labels", "prompts", "captioned")
WITHOUT_PICTURES = ("labels", "prompts")
TOLD_A_TEXT = ("prompts", "captioned")
# Of such keys one is wanted: a later place that gives one takes the others of earlier places away.
ALTERNATIVES = {"data": (DATA_SOURCES, ("resolution", "sizes"))}


@dataclass(frozen=True)
class ImitationSection:
    """How policy imitation draws states and compares velocities."""

    __pydantic_config__ = SECTION

    states: Substeps  # intermediate states per student evaluation
    window: Window  # micro-window, in substeps; 0 compares the velocity at the state itself
    dropout: Probability  # of whole components on the rollout; gm and momentum only
    mixing_iterations: Interval  # over which the teacher's share of the trajectory falls to zero; 0: none
    loss_scale: Positive
    states_per_query: Window = 0  # how many of the states share a batch of the teacher; 0: all that can
    data_free: Flag | None = None  # start at noise, in place of noised data; none: where there are no pictures


@dataclass(frozen=True)
class OptimisationSection:
    """How long, how fast and in which precision."""

    __pydantic_config__ = SECTION

    iterations: Iterations
    # Global, over all processes and rounds of accumulation: trajectories, of which each has all its segments, where
    # training is data-free, and else samples of one segment.
    batch_size: Batch
    learning_rate: Rate
    betas: tuple[Probability, Probability]
    weight_decay: NonNegative
    warmup: Interval  # iterations of linear warm-up
    gradient_clip: Positive  # largest gradient norm, after the warm-up
    precision: Literal["fp32", "bf16"]
    schedule: Literal["constant", "cosine"] = "constant"  # of the rate after the warm-up; cosine falls to zero
    device_batch_size: Batch | None = None  # of them in memory at once on a device; none: the whole share of the batch
    gamma_learning_rate: Positive = 0.1  # of the log-gammas of a momentum policy, over that of the rest
    ema_gamma: Positive = 7.0  # of the power-law average
    gradient_checkpointing: Flag = False
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"


@dataclass(frozen=True)
class OutputSection:
    """What is left on disk, and how often."""

    __pydantic_config__ = SECTION

    preview_every: Interval  # iterations between previews; 0: none
    checkpoint_every: Iterations  # iterations between checkpoints
    keep_checkpoints: Iterations  # how many of the newest stay
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
    adapter: AdapterSection | None = None
    seed: Seed = 0

    @property
    def data_free(self) -> bool:
        """Whether training starts at noise alone: as said, or else wherever there are no pictures."""
        said = self.imitation.data_free
        return self.data.source in WITHOUT_PICTURES if said is None else said


SECTIONS: dict[str, type] = {
    "teacher": TeacherSection,
    "policy": PolicySection,
    "data": DataSection,
    "imitation": ImitationSection,
    "optimisation": OptimisationSection,
    "output": OutputSection,
    "adapter": AdapterSection,
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
    if (adapter := sections.get("adapter")) is not None:
        yield from _offload_contradictions(adapter, optimisation)
    data = sections.get("data")
    if data is not None:
        yield from _data_contradictions(data, teacher)
    if data is not None and imitation is not None and imitation.data_free is False and data.source in WITHOUT_PICTURES:
        yield (
            "imitation.data_free",
            f"is false, and {data.source} bring no pictures to add noise to; give some: --data SOURCE",
        )
    # Rows of policies are imported with torch, which takes a second: of a few parts alone is it worth it.
    if (
        policy is not None
        and policy.components < FEW
        and policy.components < (fewest := policy_kind(policy.kind).fewest)
    ):
        yield "policy.components", f"must be at least {fewest} for a {policy.kind} policy"
    if policy is not None and imitation is not None:
        longest = segment_substeps(policy)
        if imitation.window > longest:
            yield (
                "imitation.window",
                (
                    f"is {imitation.window} substeps, longer than a segment, which has {longest} "
                    f"(policy.nfe {policy.nfe}, policy.substeps {policy.substeps})"
                ),
            )


def _offload_contradictions(
    adapter: AdapterSection, optimisation: OptimisationSection | None
) -> Iterator[tuple[str, str]]:
    if not adapter.offload_base:
        return
    if adapter.base_precision in ("int8", "nf4"):
        yield "adapter.offload_base", f"excludes adapter.base_precision {adapter.base_precision}; take fp8 or bf16"
    if optimisation is not None and not optimisation.gradient_checkpointing:
        yield (
            "adapter.offload_base",
            "needs optimisation.gradient_checkpointing: else the backward pass holds all the weights",
        )


def segment_substeps(policy: PolicySection) -> int:
    """Substeps of the longest segment: round(substeps / (nfe - 1 + final_step_scale)), at least 1.

    Segments are even in raw time but for the last (pi-Flow, arXiv 2510.14974); with one evaluation the last is the
    only one and spans all of raw time.
    """
    segment = 1.0 if policy.nfe == 1 else 1.0 / (policy.nfe - 1 + policy.final_step_scale)
    return max(1, round(policy.substeps * segment))


def _data_contradictions(data: DataSection, teacher: TeacherSection | None) -> Iterator[tuple[str, str]]:
    given = [name for name in DATA_SOURCES if getattr(data, name) is not None]
    wanted = None if teacher is None else told(teacher.family)
    foreign = [name for name in given if wanted not in (None, TEXT if name in TOLD_A_TEXT else CLASS)]
    if foreign:
        other = CLASS if wanted == TEXT else TEXT
        what = f"is for teachers that are told a {other}, and this one is told a {wanted}; leave it out"
        yield f"data.{foreign[0]}", what
        return
    for name in given[1:]:
        yield f"data.{name}", f"excludes data.{given[0]}; give one of them"
    if data.resolution is not None and data.sizes:
        yield "data.sizes", "excludes data.resolution; give one of them"
    if data.resolution is None and not data.sizes and set(TOLD_A_TEXT) & set(given):
        yield "data.resolution", f"is missing: data.{given[0]} needs the pictures' side in pixels, or data.sizes"


def _optimisation_contradictions(optimisation: OptimisationSection) -> Iterator[tuple[str, str]]:
    size = optimisation.device_batch_size
    if size is not None and size > optimisation.batch_size:
        yield (
            "optimisation.device_batch_size",
            f"is {size} and must not exceed optimisation.batch_size, {optimisation.batch_size}",
        )
