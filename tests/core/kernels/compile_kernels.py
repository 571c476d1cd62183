"""Compile the kernels for NVIDIA GPUs without one at hand; fails where one does not compile or spills much."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from piflow_cli.core.kernels import dx_triton, gm_triton, gm_triton_kernels, triton_tables

RANKS = {"means_strides": 6, "logweights_strides": 6, "x_strides": 5, "src_strides": 5}
RANKS |= {"grad_means_strides": 6, "grad_logweights_strides": 6}
FLOATS = {"shift": "fp64", "temperature": "fp64", "segment": "fp64", "inverse_temperature": "fp64"}
POINTERS = {"times": "fp64", "gain": "fp64", "beta": "fp64", "ends": "i32", "dropped": "u8"} | dict.fromkeys(
    ("logstds", "scalars", "x", "x_src", "out", "grad", "path", "grad_x", "grad_logstds"), "fp32"
)
PARAMETERS = ("means", "logweights", "grad_means", "grad_logweights")
STACK_ALLOWED = 64  # bytes a thread


def compile_one(kernel, constants: dict, warps: int, capability: int, parameters: str = "bf16"):
    pointers = POINTERS | dict.fromkeys(PARAMETERS, parameters)
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = "*" + pointers[name]
        elif name in RANKS:
            signature[name] = ("i64",) * RANKS[name]
        else:
            signature[name] = FLOATS.get(name, "i32")
    source = ASTSource(kernel, signature, constexprs=constants)
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


def main() -> None:
    table = {"LEGS": 4, "AVERAGED": False, "WIDTH": 256}
    compile_one(triton_tables.table_kernel, table, 1, 90)
    compile_one(triton_tables.table_kernel, table | {"LEGS": 1, "AVERAGED": True}, 1, 80)
    for capability, polynomial in ((80, False), (90, True)):
        constants = {"LEGS": 4, "AVERAGED": False, "POLYNOMIAL": polynomial, "N": 10, "NP": 16}
        compile_one(dx_triton.map_kernel, constants, 1, capability)
    compile_one(dx_triton.map_kernel, constants | {"LEGS": 1, "AVERAGED": True}, 1, 90)
    for components, channels, capability in ((8, 16, 90), (32, 4, 80)):
        sizes = gm_triton.program_sizes(components, channels)
        warps = sizes.pop("num_warps")
        forward = {"LEGS": 4, "DROPPED": True, "INTEGRATE": False, **sizes}
        backward = {"LEGS": 1, "DROPPED": False, **sizes}
        for kernel, constants in ((gm_triton_kernels.forward_kernel, forward), (gm_triton_kernels.backward_kernel, backward)):
            stack = stack_bytes(compile_one(kernel, constants, warps, capability))
            assert stack <= STACK_ALLOWED, f"{kernel.__name__} {constants}: {stack} bytes of local memory a thread"


if __name__ == "__main__":
    main()
