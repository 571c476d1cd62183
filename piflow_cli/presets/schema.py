"""The schema of a preset: frozen dataclasses, whose annotations are the constraints.

The text under a field is its line of the manual, one sentence or phrase, which :mod:`.described` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict

from piflow_cli.core.policies.kinds import policy_names
from piflow_cli.presets.choices import BasePrecision, RecipeName, TrackerName
from piflow_cli.presets.types import (
    BatchSize,
    BudgetText,
    Components,
    Evaluations,
    Flag,
    Frames,
    GuidanceScale,
    Interval,
    Iterations,
    Loras,
    Name,
    NonNegative,
    Positive,
    Probability,
    Rate,
    Ratio,
    SampleCount,
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
PolicyName = Literal[POLICY_KINDS]  # ty: ignore[invalid-type-form]

SECTION = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class TeacherSection:
    """The model that is imitated, and the guidance it is imitated with."""

    __pydantic_config__ = SECTION

    family: Text
    """The kind of model, which knows how latents are packed and what the network is told."""
    base: Text
    """Where the weights lie: a path, a Hub id (owner/name, a folder or file inside), or preset:NAME (shipped)."""
    license: Text
    """Licence of the weights, and of the data where they are shipped."""
    memory: Text
    """Memory that a step takes, for people, as the plan of the preset computes it: "15 GB"."""
    revision: Text | None = None
    """Commit or tag on the Hub; null: the newest."""
    loras: Loras = ()
    """LoRAs that are fused into the weights before distilling, each with its scale: teacher and student have them."""
    guidance: GuidanceScale = 1.0
    """Guidance scale; 1 is no guidance."""
    guidance_2: GuidanceScale | None = None
    """Guidance scale of the second network, of lower noise levels, where a teacher has two; null: that of the first."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Lowest and highest sigma at which classifier-free guidance acts."""
    guidance_mode: Literal["plain", "orthogonal", "renormalised", "embedded"] = "plain"
    """How guidance acts: plain, orthogonal or renormalised classifier-free guidance, or embedded, a network's input."""
    config: Text | None = None
    """Folder of the model's config.json, for a checkpoint without one."""
    vae: Text | None = None
    """Hub id or folder of the AutoencoderKL that shows a class-conditional model's latents; null: it has pixels."""


@dataclass(frozen=True)
class PolicySection:
    """The policy the student emits, and the time grid it is rolled on."""

    __pydantic_config__ = SECTION

    kind: PolicyName
    """Kind of policy."""
    components: Components
    """Number of the policy's parts: components, grid points or terms."""
    nfe: Evaluations
    """Network evaluations per image."""
    final_step_scale: Annotated[float, Strict(), Field(gt=0, le=1)] = 1.0
    """Length of the last segment over that of the others."""
    shift: Shift = 1.0
    """Shift of the time grid towards noise; 1 is none."""
    substeps: Substeps = 128
    """Policy substeps per unit of raw time."""
    temperature: Temperature = 1.0
    """Sampling temperature of the mixture, but on the last step; 1 is none; auto grows with nfe (text-to-image)."""
    logstd_width: Width = 1024
    """Hidden width of the network that predicts the log-std."""


@dataclass(frozen=True)
class AdapterSection:
    """A student that shares the frozen teacher's weights and trains low-rank adapters; without it all weights train."""

    __pydantic_config__ = SECTION

    rank: Width = 256
    """Rank of the adapters."""
    alpha: Positive = 256.0
    """Scale of the adapters: their product is multiplied by alpha / rank."""
    dropout: Probability = 0.05
    """Dropout on the input of the adapters."""
    base_precision: BasePrecision = "bf16"
    """Precision of the frozen weights; int8 and nf4 need CUDA."""
    offload_base: Flag = False
    """Keep the frozen weights in the CPU's memory until they are used; needs gradient checkpointing."""


@dataclass(frozen=True)
class DataSection:
    """The data of training (one of images, labels, prompts and captioned), and the size of pictures."""

    __pydantic_config__ = SECTION

    images: Text | None = None
    """Pictures with labels: a folder, .tar shards or a safetensors file; or a safetensors file of latents."""
    labels: Literal["uniform"] | None = None
    """Train without pictures, on every class of the teacher equally often."""
    prompts: Text | None = None
    """A .txt, .jsonl, .csv or .parquet file, or a Hub dataset; trains without pictures."""
    captioned: Text | None = None
    """Captioned pictures: a folder, .tar shards or a Hub dataset. Teachers of videos: a folder or shards of them."""
    text_column: Text = "text"
    """Column of prompts or captions in .jsonl, .csv and .parquet files and Hub datasets."""
    image_column: Text = "image"
    """Column of pictures in Hub datasets."""
    split: Text = "train"
    """Split of a Hub dataset."""
    limit: SampleCount | None = None
    """Number of prompts, or of pictures with captions, that are used: the first ones; null: all."""
    resolution: Side | None = None
    """Side in pixels of the square whose area every bucket has, of prompts and pictures with captions."""
    aspect_ratio: Ratio = 1.0
    """Longer over shorter side of the widest bucket; 1: squares alone."""
    sizes: Sizes = ()
    """The buckets themselves, in place of resolution."""
    frames: Frames | None = None
    """Frames of a video, 4 n + 1 for Wan and Kandinsky 6, 8 n + 1 for LTX-Video; null: pictures."""
    cache: Text | None = None
    """Folder of embeddings and latents; null: piflow in the user's cache folder."""
    offload_text_encoder: Flag = False
    """Keep the text encoders in the CPU's memory, each layer on the device while it computes."""

    @property
    def source(self) -> str | None:
        """The one of DATA_SOURCES that is given."""
        return next((name for name in DATA_SOURCES if getattr(self, name) is not None), None)


DATA_SOURCES = ("images", "labels", "prompts", "captioned")
WITHOUT_PICTURES = ("labels", "prompts")
TOLD_A_TEXT = ("prompts", "captioned")
# Only one key of each group counts: a layer that gives one takes away those of earlier layers.
ALTERNATIVES = {"data": (DATA_SOURCES, ("resolution", "sizes"))}


@dataclass(frozen=True)
class ImitationSection:
    """How policy imitation draws states and compares velocities."""

    __pydantic_config__ = SECTION

    states: Substeps
    """Intermediate states per student evaluation."""
    window: Window
    """Micro-window in substeps, which calms the loss near the data; 0 compares the velocity at the state itself."""
    dropout: Probability
    """Share of components that are dropped on the rollout, for gm and momentum policies."""
    mixing_iterations: Interval
    """Iterations over which the teacher's share of the trajectory falls to zero; 0: none."""
    loss_scale: Positive
    """Factor of the loss."""
    states_per_query: Window = 0
    """Number of states that share a batch of the teacher; 0: as many as can."""
    data_free: Flag | None = None
    """Start from noise, in place of noised data; null: where there are no pictures."""
    energy: NonNegative = 0.0
    """Weight of the energy distance between the ends of a student's segments and noised data; 0: none, as published."""
    moments: NonNegative = 0.0
    """Weight of a Frechet distance between the same two, to second order; 0: none, as published."""

    @property
    def distances(self) -> tuple[str, ...]:
        """The distances to data that have a weight."""
        return tuple(name for name in ("energy", "moments") if getattr(self, name) > 0)


@dataclass(frozen=True)
class OptimisationSection:
    """Length, learning rate and precision of training."""

    __pydantic_config__ = SECTION

    iterations: Iterations
    """Optimiser steps."""
    batch_size: BatchSize
    """Trajectories with all their segments (data-free), or samples of one segment, in a step, over all processes."""
    learning_rate: Rate
    """Peak learning rate, after the warm-up."""
    betas: tuple[Probability, Probability]
    """Decay of Adam's averages, of the gradient and of its square."""
    weight_decay: NonNegative
    """Weight decay, decoupled."""
    warmup: Interval
    """Iterations of linear warm-up."""
    gradient_clip: Positive
    """Largest gradient norm, after the warm-up."""
    precision: Literal["fp32", "bf16"]
    """Precision in which the networks compute."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up; cosine falls to zero."""
    device_batch_size: BatchSize | None = None
    """Part of the batch that is in memory at once on a device; null: its whole share."""
    gamma_learning_rate: Positive = 0.1
    """Learning rate of a momentum policy's log-gammas, over that of the rest."""
    ema_gamma: Positive = 7.0
    """Exponent of the power-law average of the weights."""
    gradient_checkpointing: Flag = False
    """Compute activations again in the backward pass, in place of keeping them."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """Optimiser."""
    budget: BudgetText | None = None
    """Time of the whole run, which sets iterations, warm-up, batch, trajectory mixing and a cosine schedule."""


@dataclass(frozen=True)
class OutputSection:
    """The files that a run writes, and how often."""

    __pydantic_config__ = SECTION

    preview_every: Interval
    """Iterations between previews; 0: none."""
    checkpoint_every: Iterations
    """Iterations between checkpoints."""
    keep_checkpoints: Iterations
    """Number of checkpoints that stay, the newest ones."""
    keep_every: Interval = 0
    """Checkpoints whose iteration is a multiple of it stay too; 0: none."""
    tracker: TrackerName = "none"
    """Tracker that also gets the settings, curves and pictures."""


@dataclass(frozen=True)
class Preset:
    """One distillation, resolved: every setting that shapes its result."""

    __pydantic_config__ = SECTION

    name: Name
    """Name of the preset, and of the run's folder unless --output names another."""
    summary: Text
    """The preset in one line."""
    teacher: TeacherSection
    policy: PolicySection
    data: DataSection
    imitation: ImitationSection
    optimisation: OptimisationSection
    output: OutputSection
    adapter: AdapterSection | None = None
    recipe: RecipeName = "published"
    """Recipe: published, the papers' own; best, what was measured to be better, where a preset has it."""
    seed: Seed = 0
    """Seed of noise, data order and dropout."""

    @property
    def data_free(self) -> bool:
        """Whether training starts from noise alone: as set, or else where there are no pictures."""
        said = self.imitation.data_free
        return self.data.source in WITHOUT_PICTURES if said is None else said


SECTIONS: dict[str, type[Any]] = {
    "teacher": TeacherSection,
    "policy": PolicySection,
    "data": DataSection,
    "imitation": ImitationSection,
    "optimisation": OptimisationSection,
    "output": OutputSection,
    "adapter": AdapterSection,
}
