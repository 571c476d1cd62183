"""A pipeline of diffusers for class-conditional students; it travels beside exported weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn


class ClassConditionalPipeline(DiffusionPipeline):
    """Pictures of classes from a transformer with a policy head.

    ``vae`` shows latents; None where the network makes pixels. ``nfe``: evaluations the student was trained for;
    ``time_unit``: timesteps in one unit of the network's time.
    """

    _optional_components = ["vae"]
    model_cpu_offload_seq = "transformer->vae"

    def __init__(
        self, transformer: nn.Module, scheduler, vae: nn.Module | None, nfe: int = 1, time_unit: float = 1000
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)
        self.register_to_config(nfe=nfe, time_unit=time_unit)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """One picture for each label, from ``latents`` (B, C, H, W) or from noise of ``generator``.

        ``output_type``: ``pil``, ``np`` (B, H, W, C), ``pt`` (B, C, H, W), both in [0, 1], or ``latent``: states as
        they are.
        """
        network, scheduler, device = self.transformer, self.scheduler, self._execution_device
        labels = torch.as_tensor(class_labels, dtype=torch.int64, device=device)
        shape = (len(labels), network.config.in_channels, network.config.sample_size, network.config.sample_size)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        # States stay in float32, whatever the network is in, and so does the time.
        x = latents.to(device, torch.float32) * scheduler.init_noise_sigma
        scheduler.set_timesteps(self.config.nfe if num_inference_steps is None else num_inference_steps, device=device)
        for timestep in self.progress_bar(scheduler.timesteps):
            told = scheduler.scale_model_input(x, timestep)
            time = (timestep / self.config.time_unit).expand(len(x))
            output = network(told.to(network.dtype), time, labels)
            output = output if isinstance(output, Tensor) else output[0]
            x = scheduler.step(output, timestep, x, generator=generator, return_dict=False)[0]
        images: Any = x if output_type == "latent" else self._shown(x, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _shown(self, x: Tensor, output_type: str):
        """States as pictures, in the ``output_type`` that is asked for."""
        if self.vae is not None:
            shift = 0.0 if self.vae.config.shift_factor is None else self.vae.config.shift_factor
            x = self.vae.decode(x.to(self.vae.dtype) / self.vae.config.scaling_factor + shift, return_dict=False)[0]
        pictures = (x.float() / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return pictures
        rows = pictures.permute(0, 2, 3, 1).cpu().numpy()
        return rows if output_type == "np" else self.numpy_to_pil(rows)
