"""The GPU memory and the disk that a run will take: arithmetic on shapes, before any weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...wording import Bytes

WIDE, NARROW = 4, 2  # bytes of a float32, of a bfloat16
# Bytes of a weight of the frozen base. nf4: 4 bits and a float32 scale for 64 of them; int8 and fp8: a byte.
BASE_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "fp8": 1.0, "nf4": 0.5 + 4 / 64}
# Bytes of AdamW's two moments; in 8 bits with two float32 scales for 256 values.
MOMENT_BYTES = {"adamw": 8.0, "adamw8bit": 2 * (1 + 4 / 256)}


@dataclass(frozen=True)
class SegmentMemory:
    """Bytes that a segment holds besides weights, gradients and what the optimiser and the average keep.

    ``graph``: what the student's forward pass leaves for its backward pass. ``asked``: what the teacher takes on top.
    ``policy``: what is there on top when the backward pass gets to the network. ``forward``, ``query``, ``backward``:
    the most in each of these passes, in all.
    """

    graph: int
    asked: int
    policy: int
    forward: int
    query: int
    backward: int


@dataclass(frozen=True)
class WeightCounts:
    """Numbers of weights.

    ``linear``: of the frozen base, in layers that can be quantised. ``other``: its remaining parameters. ``trained``:
    of the student. ``matrix``: in the largest linear layer. ``block``: in the largest block.
    """

    linear: int
    other: int
    trained: int
    matrix: int
    block: int


@dataclass(frozen=True)
class MemorySettings:
    """The settings of a preset that memory depends on, besides those of a segment.

    ``processes`` share the batch; ``sharded``: the weights too.
    """

    base: str
    compute: str
    optimizer: str
    checkpointing: bool
    offload: bool
    processes: int
    sharded: bool = False


@dataclass(frozen=True)
class Estimate:
    """Bytes by part. The peak adds what is always there to the most demanding moment of a step."""

    base: Bytes
    adapters: Bytes
    gradients: Bytes
    optimiser: Bytes
    average: Bytes
    activations_without_checkpointing: Bytes
    activations_with_checkpointing: Bytes
    teacher_query: Bytes
    policy: Bytes
    peak: Bytes

    def of_full_training(self) -> dict[str, Bytes]:
        """The parts under the names they have where all weights are trained: the base is the teacher."""
        names = {"base": "teacher", "adapters": "student"}
        return {names.get(name, name): value for name, value in self.parts().items()}

    def parts(self) -> dict[str, Bytes]:
        return {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}


def estimate(weights: WeightCounts, segment: SegmentMemory, other_graph: int, settings: MemorySettings) -> Estimate:
    """The memory of a pi-ID step on one device.

    - base: its linear weights at the bytes of their precision, the rest in bfloat16 (float32 where base or arithmetic
      is); offloaded, only the matrices of one block are there, while the backward pass goes through it.
    - adapters (or student), average: 4 bytes an element; optimiser: AdamW's two moments; gradients: 4 bytes an element,
      and as many again where processes exchange them: in the first step the buckets of DDP do not hold them yet.
    - activations: what the forward pass leaves for the backward pass, under the checkpointing of the preset
      (``segment``) and without it, or with it (``other_graph``).
    - teacher query, policy: what they hold on top of the activations.
    - peak: all of the standing parts, and the most of the forward pass, the query and the backward pass. Of a quantised
      base one matrix more is unpacked at any time.
    - Where processes share the weights out, each has its share of all that stands. Two blocks are always whole, the
      one that computes and the one that is fetched ahead, and so is what lies outside of blocks.
    """
    shares = settings.processes if settings.sharded else 1
    buckets = 2 if settings.processes > shares else 1
    base, trained = base_bytes(weights, settings) / shares, weights.trained / shares
    optimiser = MOMENT_BYTES[settings.optimizer] * trained
    standing = base + (2 + buckets) * WIDE * trained + optimiser + _unpacked(weights, settings)
    standing += _gathered(weights, settings)
    graphs = (segment.graph, other_graph) if settings.checkpointing else (other_graph, segment.graph)
    return Estimate(
        base=Bytes(base),
        adapters=Bytes(WIDE * trained),
        gradients=Bytes(buckets * WIDE * trained),
        optimiser=Bytes(optimiser),
        average=Bytes(WIDE * trained),
        activations_without_checkpointing=Bytes(graphs[1]),
        activations_with_checkpointing=Bytes(graphs[0]),
        teacher_query=Bytes(segment.asked),
        policy=Bytes(segment.policy),
        peak=Bytes(standing + max(segment.forward, segment.query, segment.backward)),
    )


def base_bytes(weights: WeightCounts, settings: MemorySettings) -> float:
    """The frozen weights on the device."""
    other = WIDE if "fp32" in (settings.base, settings.compute) else NARROW
    linear = weights.block if settings.offload else weights.linear
    return BASE_BYTES[settings.base] * linear + other * weights.other


def _gathered(weights: WeightCounts, settings: MemorySettings) -> float:
    """Bytes of what processes hand each other while they compute, besides their own shares."""
    if not settings.sharded:
        return 0.0
    other = WIDE if "fp32" in (settings.base, settings.compute) else NARROW
    # Adapters and gradients of a block, as large a part of all as the block is of the base.
    trained = weights.trained * weights.block / weights.linear
    return 2 * (BASE_BYTES[settings.base] * weights.block + 2 * WIDE * trained) + other * weights.other


def _unpacked(weights: WeightCounts, settings: MemorySettings) -> int:
    """Bytes of a matrix that bitsandbytes unpacks to compute; the graph does not keep it."""
    if settings.base not in ("int8", "nf4"):
        return 0
    return (NARROW if settings.compute == "bf16" else WIDE) * weights.matrix


def checkpoint_bytes(trained: int, optimizer: str) -> Bytes:
    """A checkpoint: student, average and moments; a student on its own takes WIDE bytes a trained element."""
    return Bytes((2 * WIDE + MOMENT_BYTES[optimizer]) * trained)
