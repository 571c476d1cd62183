"""Compile the kernels for NVIDIA GPUs without one at hand, and look at their machine code.

    python compile_kernels.py INTEGERS

It fails where a kernel does not compile or spills registers in a loop, or where a GM kernel of a shipped shape shares
memory, waits for other warps, or takes more shuffles than its lanes are there for. It fails too where a loop begins or
ends at a value that a loop around it hands on: Triton 3.3 to 3.7 take the first such value for all of them.

INTEGERS (1, 16 or 17) is what all integers of a launch are: of 1 Triton makes a constant, which has no methods of a
tensor, and divisibility by 16 tempts it to wider accesses. Each kernel is compiled with each of them, for one or two
kinds of GPU and shapes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from compiled_kernels import Code, code_of, compiled
from triton.runtime import JITFunction

from piflow_cli.core.kernels import dx_triton, gm_triton, gm_triton_kernels, momentum_triton, triton_tables

FORWARD, BACKWARD = gm_triton_kernels.forward_kernel, gm_triton_kernels.backward_kernel
# Shapes (K, C) of FLUX.1 and its like, FLUX.2 and ImageNet; kinds of GPU are Ampere (80), Hopper (90), Blackwell (100).
STACK_ALLOWED = 128  # bytes a thread, outside loops: addresses that are wanted at the end of a leg
MIXTURES = {
    "17": ((FORWARD, (8, 16), 90), (BACKWARD, (8, 16), 90)),
    "16": ((FORWARD, (8, 32), 90), (FORWARD, (8, 16), 100), (BACKWARD, (32, 4), 90)),
    "1": ((FORWARD, (32, 4), 80), (BACKWARD, (8, 16), 80)),
}


class Case(NamedTuple):
    kernel: JITFunction
    constants: dict[str, Any]
    warps: int
    capability: int


def small_cases() -> Iterator[Case]:
    """Kernels of tables, of DX and of momentum, with every branch that a constant chooses."""
    table = {"LEGS": 4, "AVERAGED": False, "WIDTH": 256}
    yield Case(triton_tables.table_kernel, table, gm_triton.table_warps(256), 90)
    yield Case(triton_tables.table_kernel, table | {"LEGS": 1, "AVERAGED": True}, gm_triton.table_warps(256), 80)
    constants = {"LEGS": 4, "AVERAGED": False, "N": 10, "NP": 16}
    yield Case(dx_triton.map_kernel, constants | {"POLYNOMIAL": False}, 1, 80)
    yield Case(dx_triton.map_kernel, constants | {"POLYNOMIAL": True}, 1, 90)
    yield Case(dx_triton.map_kernel, constants | {"LEGS": 1, "AVERAGED": True, "POLYNOMIAL": True}, 1, 90)
    constants = {"N": 10, "BLOCK": dx_triton.BLOCK}
    for legs, capability in ((4, 80), (1, 90)):
        own = constants | {"LEGS": legs, "ADDED": legs > 1}
        yield Case(dx_triton.apply_kernel, own, dx_triton.WARPS, capability)
        wanted = {"OF_X": legs > 1, "OF_SOURCE": legs > 1}
        yield Case(dx_triton.adjoint_kernel, own | wanted, dx_triton.WARPS, capability)
    # FLUX.1, digits, and as many channels as make a program hold more than its share.
    for sizes, legs, capability in (((16, 16), 4, 90), ((8, 1), 1, 80), ((16, 128), 1, 100)):
        own = {"ADDED": legs > 1, "DROPPED": legs > 1} | momentum_triton.program_sizes(*sizes)
        yield Case(momentum_triton.momentum_kernel, own | {"LEGS": legs}, momentum_triton.WARPS, capability)
        yield Case(momentum_triton.momentum_adjoint_kernel, own, momentum_triton.WARPS, capability)


def mixture_cases(integers: str) -> Iterator[Case]:
    for kernel, shape, capability in MIXTURES[integers]:
        yield mixture_case(kernel, shape, capability, integers)


def mixture_case(kernel: JITFunction, shape: tuple[int, int], capability: int, integers: str) -> Case:
    constants = {"DROPPED": integers == "1"}
    if kernel is FORWARD:
        one = {"LEGS": 1, "INTEGRATE": True}
        constants |= one if integers == "1" else {"LEGS": 4, "DROPPED": True, "INTEGRATE": False}
    most = gm_triton.FORWARD_MEANS if kernel is FORWARD else gm_triton.BACKWARD_MEANS
    constants |= gm_triton.program_sizes(*shape, most)
    return Case(kernel, constants, gm_triton.THREADS // gm_triton.WARP, capability)


def bounds_handed_on(ttir: str) -> set[str]:
    """Bounds of loops that are arguments of another loop, in Triton's first representation of a kernel."""
    loops = re.findall(r"scf\.for %\S+ = (%\S+) to (%\S+) step .*?iter_args\((.*?)\) ->", ttir)
    assert len(loops) == len(re.findall(r"scf\.for .* iter_args", ttir))
    handed = {name for *_, told in loops for name in re.findall(r"(%\S+) =", told)}
    return handed & {bound for *bounds, _ in loops for bound in bounds}


def check_mixture(case: Case, code: Code) -> None:
    """What each position of a shipped shape is to cost, whatever the GPU."""
    rows, columns = (-(-case.constants[axis] // case.constants[f"{axis}LANES"]) for axis in "KC")
    over_k, over_c = (case.constants[f"{axis}LANES"].bit_length() - 1 for axis in "KC")
    # One for each logit over channels; for maximum, sum and mean over components. Backward as many for the responses,
    # and two sums more.
    walk = over_c * rows + over_k * (2 + columns)
    shuffles = [walk] if case.kernel is FORWARD else [walk, 2 * over_c * rows + over_k * (3 + columns)]
    assert code.barriers == 0, f"waits in {code.barriers} places"
    assert code.shared == 0, f"shares {code.shared} bytes"
    assert [loop.shuffles for loop in code.loops] == shuffles, f"{code.loops}, and {shuffles} shuffles would do"
    # What is read and written once, with its addresses; that a thread reads for others took Triton 3.6 13,800.
    once = code.instructions - sum(loop.instructions for loop in code.loops)
    assert once <= 16 * rows * columns + 1000, f"{once} instructions outside loops"
    if case.kernel is FORWARD:
        # Half of what it issues are the multiply-adds of energies and mean, which it cannot do without.
        assert code.loops[0].instructions <= 2 * 2 * rows * columns, f"{code.loops}"


def check_that_nothing_is_lost(case: Case, integers: str) -> None:
    """Machine code is the same without the passes that launches leave out."""
    codes = [
        compiled(case.kernel, case.constants, case.warps, case.capability, integers=integers, quick=quick).asm["cubin"]
        for quick in (False, True)
    ]
    assert codes[0] == codes[1], f"{case}: another machine code without coalescing"


def kernels() -> set[str]:
    """Names of the kernels that are launched, as the modules define them."""
    modules = (dx_triton, gm_triton_kernels, momentum_triton, triton_tables)
    found = [value for module in modules for value in vars(module).values() if isinstance(value, JITFunction)]
    return {kernel.__name__ for kernel in found if kernel.__name__.endswith("_kernel")}


def main(integers: str) -> None:
    done = set()
    for case in (*small_cases(), *mixture_cases(integers)):
        made = compiled(case.kernel, case.constants, case.warps, case.capability, integers=integers)
        code = code_of(made)
        named = f"{case.kernel.__name__} {case.constants} for sm_{case.capability}"
        print(named, code, flush=True)
        assert not bounds_handed_on(made.asm["ttir"]), f"loops are bounded by {bounds_handed_on(made.asm['ttir'])}"
        assert code.spilled <= STACK_ALLOWED, f"{code.spilled} bytes of local memory a thread"
        assert not any(loop.spills for loop in code.loops), f"{code.loops}"
        if case.kernel in (FORWARD, BACKWARD):
            check_mixture(case, code)
        done.add(case.kernel.__name__)
    for kernel in (FORWARD, BACKWARD):
        check_that_nothing_is_lost(mixture_case(kernel, (4, 4), 90, integers), integers)
    assert done == kernels(), f"not compiled here: {kernels() - done}"


if __name__ == "__main__":
    main(*sys.argv[1:])
