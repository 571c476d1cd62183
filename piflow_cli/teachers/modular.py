"""Modular pipelines of diffusers, called and placed as its whole ones are."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from .shown import handed


def as_whole(kind: type, block: Any, made: str) -> Any:
    """The modular pipeline of the class ``kind`` that runs ``block`` alone, and answers a call with ``(made,)``.

    ``made``: the name of an output of the block. Its parts are those that the block expects, none of them loaded.
    """
    # Blocks are made once a process; bars that are hidden here are to stay for others.
    pipeline = handed(kind, _AsWhole)(blocks=deepcopy(block))
    pipeline.made = made
    return pipeline


class _AsWhole:
    """What modular pipelines lack of whole ones: guidance as an argument, one output, and weights that are offloaded.

    They hold a guider in the place of a scale, return their whole state, and leave memory to a manager of many models.
    """

    made: str
    register_components: Any
    components: Any
    guider: Any

    def __call__(self, *, guidance_scale: float | None = None, output_type: str = "latent", **told: Any) -> tuple:
        """Run the block; ``output_type`` is of no meaning, since blocks that end in latents decode none."""
        if guidance_scale is not None:
            self.register_components(guider=self.guider.new(guidance_scale=guidance_scale))
        stock: Any = super()
        return (stock.__call__(**told, output=self.made),)

    @property
    def _networks(self) -> list[nn.Module]:
        return [part for part in self.components.values() if isinstance(part, nn.Module)]

    def enable_group_offload(self, onload_device: torch.device, **options: Any) -> None:
        from diffusers.hooks import apply_group_offloading

        for network in self._networks:
            apply_group_offloading(network, onload_device, **options)

    def enable_model_cpu_offload(self, device: torch.device) -> None:
        import accelerate

        for network in self._networks:
            accelerate.cpu_offload_with_hook(network, device)

    def enable_sequential_cpu_offload(self, device: torch.device) -> None:
        import accelerate

        for network in self._networks:
            # As whole pipelines do: layers hold their buffers, but not where a network has weights of its own.
            accelerate.cpu_offload(network, device, offload_buffers=len(network._parameters) > 0)
