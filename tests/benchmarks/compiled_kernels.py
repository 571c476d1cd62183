"""Triton kernels compiled for a GPU that need not be there, and what their machine code holds.

Triton brings the assembler (ptxas) and the disassembler (cuobjdump) that this takes.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from piflow_cli.core.kernels import gm_triton_kernels
from piflow_cli.core.kernels.triton_passes import without_coalescing

RANKS = {"means_strides": 6, "logweights_strides": 6, "x_strides": 5, "src_strides": 5}
RANKS |= {"grad_means_strides": 6, "grad_logweights_strides": 6}
RANKS |= {"loggammas_strides": 6, "grad_loggammas_strides": 6}
RANKS |= {"grid_strides": 5, "grad_grid_strides": 5, "state_strides": 4, "source_strides": 4}
FLOATS = {"shift": "fp64", "temperature": "fp64", "segment": "fp64", "inverse_temperature": "fp64"}
POINTERS = {"ends": "i32", "dropped": "u8"}
POINTERS |= dict.fromkeys(("raw_src", "raw_start", "raw_ends", "gain", "beta"), "fp64")
POINTERS |= dict.fromkeys(("logstds", "scalars", "x", "x_src", "out", "grad", "path"), "fp32")
POINTERS |= dict.fromkeys(("grad_x", "grad_src", "grad_logstds"), "fp32")
PARAMETERS = ("means", "logweights", "grid", "grad_means", "grad_logweights", "grad_grid")
PARAMETERS += ("loggammas", "grad_loggammas")
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);")
MEMORY, SPILLS = ("LDG", "STG", "LDS", "STS"), ("LDL", "STL")
ARITHMETIC = ("FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2")  # on the lanes for float32; the last three do two


@dataclass(frozen=True)
class Loop:
    """What one round of an innermost loop issues, in instructions of a warp.

    ``arithmetic`` on the float32 lanes; ``special`` functions, the ``exponentials`` among them; ``memory``: accesses,
    without those of spilled registers.
    """

    instructions: int
    arithmetic: int
    exponentials: int
    special: int
    shuffles: int
    barriers: int
    memory: int
    spills: int


@dataclass(frozen=True)
class Code:
    """Registers and bytes of local memory (what was spilled) a thread, of shared memory a program; loops in order."""

    registers: int
    spilled: int
    shared: int
    instructions: int
    barriers: int
    loops: tuple[Loop, ...]


def compiled(
    kernel: Any,
    constants: dict[str, Any],
    warps: int,
    capability: int,
    parameters: str = "bf16",
    integers: str = "17",
    quick: bool = True,
) -> Any:
    """A kernel compiled as a launch would; ``integers`` says what all its integers are, which Triton looks at.

    ``17``: any number. ``1``: a constant, which has no methods of a tensor. ``16``: it divides them, and the innermost
    strides are 1, as of contiguous tensors: what tempts Triton to share memory accesses out anew. ``quick``: without
    the passes that launches leave out.
    """
    pointers = POINTERS | dict.fromkeys(PARAMETERS, parameters)
    signature, known, hints = {}, {}, {}

    def integer(kind: str, *where: int, innermost: bool = False) -> str:
        if integers == "1" or (integers == "16" and innermost):
            known[where] = 1
            return "constexpr"
        if integers == "16":
            hints[where] = [["tt.divisibility", 16]]
        return kind

    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            known[(index,)], signature[name] = constants[name], "constexpr"
        elif name in pointers:
            signature[name] = "*" + pointers[name]
            if integers == "16":
                hints[(index,)] = [["tt.divisibility", 16]]
        elif name in RANKS:
            last = RANKS[name] - 1
            signature[name] = tuple(integer("i64", index, axis, innermost=axis == last) for axis in range(last + 1))
        else:
            signature[name] = FLOATS[name] if name in FLOATS else integer("i32", index)
    source = ASTSource(kernel, signature, constexprs=known, attrs=hints)
    entry_by_entry = kernel.fn.__module__ == gm_triton_kernels.__name__
    with without_coalescing() if entry_by_entry and quick else nullcontext():
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def code_of(compiled: Any) -> Code:
    """What the machine code of a compiled kernel holds."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, listing = (_read("cuobjdump", option, file.name) for option in ("-res-usage", "-sass"))
    registers, spilled, shared = (
        max(int(found) for found in re.findall(rf"{name}:(\d+)", usage)) for name in ("REG", "STACK", "SHARED")
    )
    lines = [(int(address, 16), name, rest) for address, name, rest in INSTRUCTION.findall(listing)]
    counts = _kinds(name for _, name, _ in lines)
    loops = tuple(
        _loop([name for address, name, _ in lines if first <= address <= last]) for first, last in _innermost(lines)
    )
    return Code(registers, spilled, shared, len(lines), counts["BAR"], loops)


def _read(program: str, *arguments: str) -> str:
    return subprocess.run([BINARIES / program, *arguments], capture_output=True, text=True, check=True).stdout


def _kinds(names: Any) -> Counter[str]:
    return Counter(name.partition(".")[0] for name in names)


def _innermost(lines: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """First and last addresses of the loops that hold no other: from the target of a branch backwards to the branch."""
    spans = []
    for address, name, rest in lines:
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name.startswith("BRA") and target is not None and int(target[1], 16) < address:
            spans.append((int(target[1], 16), address))
    return sorted(
        span
        for span in spans
        if not any(other != span and span[0] <= other[0] and other[1] <= span[1] for other in spans)
    )


def _loop(names: list[str]) -> Loop:
    counts = _kinds(names)
    return Loop(
        instructions=len(names),
        arithmetic=sum(counts[kind] for kind in ARITHMETIC),
        exponentials=sum(name.startswith("MUFU.EX2") for name in names),
        special=counts["MUFU"],
        shuffles=counts["SHFL"],
        barriers=counts["BAR"],
        memory=sum(counts[kind] for kind in MEMORY),
        spills=sum(counts[kind] for kind in SPILLS),
    )
