"""Compile the kernels for NVIDIA GPUs without one at hand; fails where one does not compile or spills much.

With `ones`, each is compiled as a launch does whose integers are all 1: Triton makes a constant of such an argument, so
that what is called on a tensor does not exist on it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from piflow_cli.core.kernels import dx_triton, gm_triton, gm_triton_kernels, triton_tables

RANKS = {"means_strides": 6, "logweights_strides": 6, "x_strides": 5, "src_strides": 5}
RANKS |= {"grad_means_strides": 6, "grad_logweights_strides": 6}
FLOATS = {"shift": "fp64", "temperature": "fp64", "segment": "fp64", "inverse_temperature": "fp64"}
POINTERS = {"times": "fp64", "gain": "fp64", "beta": "fp64", "ends": "i32", "dropped": "u8"} | dict.fromkeys(
    ("logstds", "scalars", "x", "x_src", "out", "grad", "path", "grad_x", "grad_logstds"), "fp32"
)
PARAMETERS = ("means", "logweights", "grad_means", "grad_logweights")
STACK_ALLOWED = 64  # bytes a thread


def compile_one(kernel, constants: dict, warps: int, capability: int, parameters: str = "bf16", ones: bool = False):
    pointers = POINTERS | dict.fromkeys(PARAMETERS, parameters)
    signature, known = {}, {}

    def integer(kind: str, *where: int) -> str:
        if not ones:
            return kind
        known[where] = 1
        return "constexpr"

    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            known[(index,)], signature[name] = constants[name], "constexpr"
        elif name in pointers:
            signature[name] = "*" + pointers[name]
        elif name in RANKS:
            signature[name] = tuple(integer("i64", index, axis) for axis in range(RANKS[name]))
        else:
            signature[name] = FLOATS[name] if name in FLOATS else integer("i32", index)
    source = ASTSource(kernel, signature, constexprs=known)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def stack_bytes(compiled) -> int:
    """Bytes of local memory a thread of a compiled kernel takes."""
    reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [str(reader), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return max(int(found) for found in re.findall(r"STACK:(\d+)", usage))


def cases() -> Iterator[tuple[JITFunction, dict, int, int]]:
    """Kernel, constants, warps and capability of what is compiled: every
    kernel, every branch that a constant chooses."""
    table = {"LEGS": 4, "AVERAGED": False, "WIDTH": 256}
    yield triton_tables.table_kernel, table, 1, 90
    yield triton_tables.table_kernel, table | {"LEGS": 1, "AVERAGED": True}, 1, 80
    for capability, polynomial in ((80, False), (90, True)):
        constants = {"LEGS": 4, "AVERAGED": False, "POLYNOMIAL": polynomial, "N": 10, "NP": 16}
        yield dx_triton.map_kernel, constants, 1, capability
    yield dx_triton.map_kernel, constants | {"LEGS": 1, "AVERAGED": True}, 1, 90
    for components, channels, capability in ((8, 16, 90), (32, 4, 80)):
        sizes = gm_triton.program_sizes(components, channels)
        warps = sizes.pop("num_warps")
        yield (
            gm_triton_kernels.forward_kernel,
            {"LEGS": 4, "DROPPED": True, "INTEGRATE": False, **sizes},
            warps,
            capability,
        )
        yield gm_triton_kernels.backward_kernel, {"LEGS": 1, "DROPPED": False, **sizes}, warps, capability


def kernels() -> set[str]:
    """Names of the kernels that are launched, as the modules define them."""
    modules = (dx_triton, gm_triton_kernels, triton_tables)
    found = [value for module in modules for value in vars(module).values() if isinstance(value, JITFunction)]
    return {kernel.__name__ for kernel in found if kernel.__name__.endswith("_kernel")}


def main() -> None:
    compiled = set()
    for kernel, constants, warps, capability in cases():
        stack = stack_bytes(compile_one(kernel, constants, warps, capability, ones="ones" in sys.argv))
        assert stack <= STACK_ALLOWED, f"{kernel.__name__} {constants}: {stack} bytes of local memory a thread"
        compiled.add(kernel.__name__)
    assert compiled == kernels(), f"not compiled here: {kernels() - compiled}"


if __name__ == "__main__":
    main()
