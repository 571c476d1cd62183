"""The sampler: a diffusers scheduler whose step() rolls a policy down to the next network evaluation."""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from ..core.decoding import PolicyDecoder
from ..core.parameterisations.base import Affine
from ..core.policies.base import Policy
from ..core.rollout import rollout
from ..core.tensors import to_device, working
from ..core.timegrid import TimeGrid, renoising, to_raw, to_sigma


@dataclass
class PolicySchedulerOutput(BaseOutput):
    """``prev_sample``: the state at the next evaluation, in the shape and dtype of the sample that was given."""

    prev_sample: Tensor


def as_sampled(policy: Policy, temperature: float | str, index: int, nfe: int) -> Policy:
    """The policy of evaluation ``index`` (from 0) of ``nfe``, at the sampling temperature of that step."""
    return policy if index == nfe - 1 else policy.with_temperature(final_temperature(temperature, nfe))


def final_temperature(temperature: float | str, nfe: int) -> float:
    """Temperature of all steps but the last, which has none: ``auto`` is 0.1 (nfe - 1), at most 1 (pi-Flow, appendix).

    The rule is of text-to-image: the published samplers of ImageNet have no temperature.
    """
    return min(max(0.1 * (nfe - 1), 0.0), 1.0) if temperature == "auto" else float(temperature)


def _noise(
    generator: torch.Generator | list[torch.Generator] | None, shape: torch.Size, deviation: float, like: Tensor
) -> Tensor:
    """Noise of ``shape`` in the dtype and on the device of ``like``; it is drawn where its generators are.

    One generator draws for all samples, several draw for one each.
    """
    generators = generator if isinstance(generator, list) else [generator]
    place = like.device if generators[0] is None else generators[0].device
    # Drawn with its deviation, the noise takes no launch to be scaled.
    noise = torch.empty(shape, dtype=like.dtype, device=place)
    parts = [noise] if len(generators) == 1 else noise.split(1)
    for index, part in enumerate(parts):
        part.normal_(std=deviation, generator=generators[index])
    # A plain copy would make the host wait for the device.
    return to_device(noise, like.device)


class PolicyScheduler(SchedulerMixin, ConfigMixin):
    """Reads ``model_output`` as a policy and follows it over one segment of raw time (pi-Flow, arXiv 2510.14974).

    Args:
        kind, components, patch, segment: how the network's output is read, see
            :class:`~piflow_cli.core.decoding.PolicyDecoder`.
        shift: map from raw time to sigma, as trained. ``sigmas`` and ``mu`` that a pipeline passes are ignored.
        final_step_scale: length of the last segment relative to the others.
        substeps: Euler substeps per unit of raw time.
        temperature: in (0, 1], or ``auto``; 1 is none. GM policies only, never on the last step.
        stochastic: h; 0 is the ODE, ``inf`` re-noises fully between evaluations.
        predicts: what the network predicts, and how it is told state and time: a row of
            :mod:`~piflow_cli.core.parameterisations.kinds`. States are those of the flow all the same: what goes into
            the network is what :meth:`scale_model_input` makes of them.

    ``generator`` draws the noise of stochastic sampling where step() is given none: text-to-image pipelines give none.
    """

    order = 1
    generator: torch.Generator | list[torch.Generator] | None = None

    @register_to_config
    def __init__(
        self,
        kind: str,
        components: int,
        patch: int | None = None,
        segment: float = 1.0,
        shift: float = 1.0,
        final_step_scale: float = 1.0,
        substeps: int = 128,
        temperature: float | str = 1.0,
        stochastic: float = 0.0,
        num_train_timesteps: int = 1000,
        predicts: str = "flow",
    ) -> None:
        self.decoder = PolicyDecoder(kind, components, shift, segment, patch, predicts)
        # Pipelines scale their noise by it.
        self.init_noise_sigma = self.decoder.parameterisation.start_scale
        self._step_index: int | None = None
        self.set_timesteps(1)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sized | None = None,
        mu: float | None = None,
    ) -> None:
        """Place ``num_inference_steps`` evaluations on the student's own time grid.

        ``sigmas`` only count them, and ``mu`` is ignored.
        """
        if num_inference_steps is None:
            if sigmas is None:
                raise ValueError("set_timesteps needs num_inference_steps")
            num_inference_steps = len(sigmas)
        self.num_inference_steps = num_inference_steps
        config, parameterisation = self.config, self.decoder.parameterisation
        grid = TimeGrid(num_inference_steps, config.final_step_scale, config.shift, parameterisation.noisiest)
        self.raws = grid.edges
        sigma = [to_sigma(raw, config.shift) for raw in self.raws]
        self.sigmas = torch.tensor(sigma, dtype=torch.float32)
        if parameterisation.flow:
            self._on_host = self.sigmas[:-1] * config.num_train_timesteps
            levels = self._on_host / config.num_train_timesteps
        else:
            levels = self.sigmas[:-1]
            self._on_host = parameterisation.timestep(levels).float()
        # Beside the timesteps, in one copy: a step makes no tensor of its own of them.
        spans = torch.tensor([self._span(index)[:2] for index in range(num_inference_steps)], dtype=torch.float64)
        if not parameterisation.flow:
            spans = torch.cat([spans, torch.stack(parameterisation.of_students(levels), dim=1)], dim=1)
        place = torch.device("cpu" if device is None else device)
        self.timesteps, self.levels, self._spans = to_device((self._on_host, levels, spans), place)
        self._step_index = None

    @property
    def step_index(self) -> int | None:
        """Index of the next step; None before the first."""
        return self._step_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at ``begin_index`` of the timesteps, as image-to-image pipelines do."""
        self._step_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Tensor | None = None) -> Tensor:
        """The sample as the network takes it: flow models do as it is."""
        parameterisation = self.decoder.parameterisation
        if parameterisation.flow:
            return sample
        if self._step_index is None:
            # Pipelines that begin later say so. To look at a timestep on the device would be to wait for it.
            seen = timestep is not None and not (isinstance(timestep, Tensor) and timestep.device.type != "cpu")
            self._step_index = self._index_of(timestep) if seen else 0
        scale = parameterisation.input_scale(self.sigmas[self._step_index]).item()
        return sample * scale

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """(1 - sigma) sample + sigma noise at the first of ``timestep``, for pipelines that start from an image."""
        sigma = self.sigmas[self._index_of(timestep.flatten()[0])].to(sample)
        return (1 - sigma) * sample + sigma * noise

    # Pipelines of models that are no flow models call it so.
    add_noise = scale_noise

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> PolicySchedulerOutput | tuple[Tensor]:
        """Roll the policy that ``model_output`` holds from ``sample`` to the next evaluation.

        ``generator`` draws the noise of stochastic sampling: one, or one per sample; None: the scheduler's own.
        """
        if self._step_index is None:
            self._step_index = self._index_of(timestep)
        index, config = self._step_index, self.config
        last = index == self.num_inference_steps - 1
        _, _, memory = self._span(index)
        if self._spans.device != sample.device:
            self._spans = to_device(self._spans, sample.device)
        source, end, *rest = (value.expand(sample.shape[0]) for value in self._spans[index])
        policy = self.decoder.policy(model_output, working(sample), source, Affine(*rest) if rest else None)
        policy = as_sampled(policy, config.temperature, index, self.num_inference_steps)
        x = rollout(policy, policy.x_src, source, end, substeps=config.substeps)
        if memory < 1 and not last:
            sigma_next = to_sigma(self.raws[index + 1], config.shift)
            deviation = sigma_next * math.sqrt(1 - memory**2)
            noise = _noise(self.generator if generator is None else generator, sample.shape, deviation, x)
            x = self.decoder.packed_sum(noise, x, 1 - sigma_next + sigma_next * memory, sample.dtype)
        else:
            x = self.decoder.pack(x, sample.dtype)
        self._step_index += 1
        return PolicySchedulerOutput(prev_sample=x) if return_dict else (x,)

    def _span(self, index: int) -> tuple[float, float, float]:
        """Raw times between which step ``index`` follows its policy, and the m_h of its re-noising."""
        raw, raw_next, shift = self.raws[index], self.raws[index + 1], self.config.shift
        sigma_dst, memory = renoising(to_sigma(raw, shift), to_sigma(raw_next, shift), self.config.stochastic)
        return raw, raw_next if memory == 1 else to_raw(sigma_dst, shift), memory

    def _index_of(self, timestep: Tensor | float) -> int:
        """The step whose timestep is nearest: pipelines hand the value back, now and then in another precision."""
        return int((self._on_host - float(timestep)).abs().argmin())

    def __len__(self) -> int:
        return self.config.num_train_timesteps
