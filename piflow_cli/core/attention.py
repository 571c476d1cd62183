"""Which kernels of torch compute attention where gradients are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch


@contextlib.contextmanager
def without_cudnn_attention() -> Generator[None]:
    """Let flash attention take the place of cuDNN's, in this process, until the block is left.

    torch prefers cuDNN's on a Hopper GPU. Its backward pass ends every step of FLUX.1 there with an error of cuDNN or
    of cuBLAS (an H200, torch 2.11, measured by ``tests/gpu/steps.py``); forward passes alone are right. A recomputed
    forward pass must ask for the same kernel as the first, so the backward pass belongs into such a block too.
    """
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)
