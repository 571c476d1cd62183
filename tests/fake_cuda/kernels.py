"""Triton kernels on fake tensors: compiled as the launch would, for each kind of GPU, and not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from piflow_cli.core import kernels
from piflow_cli.core.kernels import dx_triton, gm_triton, momentum_triton

CAPABILITIES = (80, 90, 100)
TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float64: "fp64", torch.int32: "i32", torch.int64: "i64",
    torch.uint8: "u8", torch.bool: "i1",
}  # fmt: skip


class Launches:
    """In the place of the kernels of the package while it is open: counts launches, and compiles each once a kind."""

    def __init__(self, capabilities: tuple[int, ...] = (90,)) -> None:
        self.capabilities = capabilities
        self.counts: Counter[str] = Counter()
        self.compiled: set[tuple] = set()

    def __enter__(self) -> Launches:
        self._kept = [
            (module, name, value)
            for module in (gm_triton, dx_triton, momentum_triton)
            for name, value in vars(module).items()
            if isinstance(value, JITFunction) and name.endswith("_kernel")
        ]
        for module, name, kernel in self._kept:
            setattr(module, name, Stand(self._launch(kernel)))
        # No kernel answers here, the one of the trial neither.
        self._kept.append((kernels, "launch_fault", kernels.launch_fault))
        kernels.launch_fault = lambda device: None
        return self

    def __exit__(self, *error: object) -> None:
        for module, name, kernel in self._kept:
            setattr(module, name, kernel)

    def _launch(self, kernel: Any) -> Callable[..., None]:
        def launch(*given: Any, num_warps: int = 4, **constants: Any) -> None:
            self.counts[kernel.__name__] += 1
            signature, known = signature_of(kernel, dict(zip(kernel.arg_names, given, strict=False)) | constants)
            for capability in self.capabilities:
                kind = (kernel.__name__, capability, num_warps, repr(signature), repr(known))
                if kind not in self.compiled:
                    self.compiled.add(kind)
                    compile_for(kernel, signature, known, capability, num_warps)

        return launch


class Stand:
    """What stands in a kernel's place and is launched the same way."""

    def __init__(self, launch: Callable[..., None]) -> None:
        self.launch = launch

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.launch


def compile_for(kernel: Any, signature: dict, known: dict, capability: int, warps: int) -> Any:
    """The kernel compiled for one kind of GPU (80: Ampere, 90: Hopper, 100: Blackwell)."""
    source = ASTSource(kernel, signature, constexprs=known)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def signature_of(kernel: Any, values: dict[str, Any]) -> tuple[dict, dict]:
    """The types that a launch with these values makes, and what it makes constant: a 1, as Triton does."""
    constants = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    known: dict[tuple, Any] = {}

    def kind(value: Any, where: tuple, name: str) -> Any:
        if isinstance(value, tuple):
            return tuple(kind(part, (*where, index), name) for index, part in enumerate(value))
        if name in constants or value is None or (type(value) is int and value == 1):
            known[where] = value
            return "constexpr"
        if isinstance(value, Tensor):
            if value.device.type != "cuda":
                raise RuntimeError(f"{kernel.__name__} is given {name} on {value.device}")
            return "*" + TYPES[value.dtype]
        if type(value) is int:
            return "i64" if value >= 2**31 else "i32"
        if isinstance(value, float):
            # A scalar is float32 unless its parameter says otherwise.
            declared = next(p.annotation for p in kernel.params if p.name == name)
            return declared if declared in ("fp32", "fp64") else "fp32"
        raise TypeError(f"{kernel.__name__} is given {name} of type {type(value).__name__}")

    missing = [name for name in kernel.arg_names if name not in values]
    if missing:
        raise TypeError(f"{kernel.__name__} is not given {', '.join(missing)}")
    return {name: kind(values[name], (index,), name) for index, name in enumerate(kernel.arg_names)}, known
