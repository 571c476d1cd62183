"""The GPU memory and the disk that a run will take: arithmetic on shapes, before any weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields

WIDE, NARROW = 4, 2  # bytes of a float32, of a bfloat16
# Bytes of a weight of the frozen base. nf4: 4 bits and a float32 scale for 64 of them; int8 and fp8: a byte.
BASE_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "fp8": 1.0, "nf4": 0.5 + 4 / 64}
# Bytes of AdamW's two moments; in 8 bits with two float32 scales for 256 values.
MOMENT_BYTES = {"adamw": 8.0, "adamw8bit": 2 * (1 + 4 / 256)}
# Copies of a policy's parameters that are alive at once: of the head its parts, their join and its unpacking, of the
# policy the decoded parameters, what dropout leaves of them, and the gradients of the last three.
POLICY_COPIES = 8
# Tensors as large as the largest inside a block that a forward or backward pass through it holds at once.
PASSING = 4


class Bytes(int):
    """A number of bytes that reads as GB (10^9) or MB (10^6) and is a plain number in JSON."""

    def __str__(self) -> str:
        return f"{self / 1e9:.1f} GB" if self >= 1e9 else f"{self / 1e6:.1f} MB"


@dataclass(frozen=True)
class Trace:
    """Bytes that one forward pass of the student over one sample keeps for the backward pass, as autograd counts them.

    ``inputs``: of each block, what checkpointing keeps; ``kept``: by each block besides; ``outside``: by everything
    else; ``largest``: the largest tensor in the computing dtype; ``output``: elements of the network's output;
    ``state``: of a state.
    """

    inputs: tuple[int, ...]
    kept: tuple[int, ...]
    outside: int
    largest: int
    output: int
    state: int


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
    """The settings of a preset that memory depends on; ``query``: states in a batch of the teacher, per sample."""

    base: str
    compute: str
    optimizer: str
    checkpointing: bool
    offload: bool
    samples: int
    states: int
    query: int


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


def estimate(weights: WeightCounts, trace: Trace, settings: MemorySettings) -> Estimate:
    """The memory of a pi-ID step on one device.

    - base: its linear weights at the bytes of their precision, the rest in bfloat16 (float32 where base or arithmetic
      is); offloaded, only the matrices of one block are there, while the backward pass goes through it.
    - adapters (or student), gradients, average: 4 bytes an element; optimiser: AdamW's two moments.
    - activations: what autograd keeps of a sample, times the samples. With checkpointing a step holds all block inputs
      and, while it goes back, what one block keeps; in bfloat16 the forward pass holds bfloat16 copies of what is
      trained instead.
    - teacher query: PASSING of the largest tensors for each state asked at once. It comes while the student's graph is
      alive.
    - policy: POLICY_COPIES float32 copies of the network's output, and twice the states that the teacher is asked
      about.
    - peak: all of the standing parts, and the largest of forward, query and backward.
    """
    kept = sum(trace.kept) + sum(trace.inputs) + trace.outside
    held = sum(trace.inputs) + trace.outside
    block = max(trace.kept, default=0)
    passing = PASSING * trace.largest * settings.samples
    copies = NARROW * weights.trained if settings.compute == "bf16" else 0
    query = PASSING * trace.largest * settings.samples * settings.query
    if settings.checkpointing:
        graph = held * settings.samples
        backward = graph + block * settings.samples + passing
    else:
        graph = kept * settings.samples
        backward = graph + passing
    policy = WIDE * settings.samples * (POLICY_COPIES * trace.output + 2 * settings.states * trace.state)
    base = base_bytes(weights, settings)
    moments = MOMENT_BYTES[settings.optimizer] * weights.trained
    standing = base + 3 * WIDE * weights.trained + moments + policy + _unpacked(weights, settings)
    return Estimate(
        base=Bytes(base),
        adapters=Bytes(WIDE * weights.trained),
        gradients=Bytes(WIDE * weights.trained),
        optimiser=Bytes(moments),
        average=Bytes(WIDE * weights.trained),
        activations_without_checkpointing=Bytes(kept * settings.samples),
        activations_with_checkpointing=Bytes((held + block) * settings.samples),
        teacher_query=Bytes(query),
        policy=Bytes(policy),
        peak=Bytes(standing + max(graph + copies + passing, graph + query, backward)),
    )


def base_bytes(weights: WeightCounts, settings: MemorySettings) -> float:
    """The frozen weights on the device."""
    other = WIDE if "fp32" in (settings.base, settings.compute) else NARROW
    linear = weights.block if settings.offload else weights.linear
    return BASE_BYTES[settings.base] * linear + other * weights.other


def _unpacked(weights: WeightCounts, settings: MemorySettings) -> float:
    """Bytes of unpacked or widened base weights, a matrix at a time; of fp8 and bf16 the graph keeps all of them."""
    if settings.base in ("fp32", settings.compute):
        return 0
    held = weights.block if settings.checkpointing else weights.linear
    return (NARROW if settings.compute == "bf16" else WIDE) * (
        held if settings.base in ("bf16", "fp8") else weights.matrix
    )


def checkpoint_bytes(trained: int, optimizer: str) -> Bytes:
    """A checkpoint: student, average and moments; a student on its own takes WIDE bytes a trained element."""
    return Bytes((2 * WIDE + MOMENT_BYTES[optimizer]) * trained)
