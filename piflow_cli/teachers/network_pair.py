"""Two networks of one class in the place of one: each knows a part of the noise levels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.parameterisations.base import TIMESTEPS
from .base import Network


class NetworkPair(nn.Module):
    """``high_noise`` for noise levels above ``edge``, ``low_noise`` for the others.

    Configuration, dtype and checkpointing are those of the first, as which the second is built. A batch may hold
    levels of both: each network is asked for its own rows. A call waits for the device to learn which those are.
    """

    def __init__(self, high_noise: nn.Module, low_noise: nn.Module, edge: float) -> None:
        super().__init__()
        self.high_noise: Network = high_noise
        self.low_noise: Network = low_noise
        self.edge = edge
        # What libraries ask the class of a network for, its layers of delicate numbers among them.
        self._skip_layerwise_casting_patterns = getattr(high_noise, "_skip_layerwise_casting_patterns", None)
        self._supports_gradient_checkpointing = getattr(high_noise, "_supports_gradient_checkpointing", False)
        self._reached: list[nn.Parameter] = []

    @property
    def networks(self) -> tuple[Network, Network]:
        """Both, the one of noisier states first."""
        return self.high_noise, self.low_noise

    @property
    def config(self) -> Any:
        return self.high_noise.config

    @property
    def dtype(self) -> torch.dtype:
        return self.high_noise.dtype

    def to_json_string(self) -> str:
        """The configuration of either."""
        return self.high_noise.to_json_string()

    def enable_gradient_checkpointing(self, *given: Any) -> None:
        for network in self.networks:
            network.enable_gradient_checkpointing(*given)

    def disable_gradient_checkpointing(self) -> None:
        for network in self.networks:
            network.disable_gradient_checkpointing()

    def reach(self, parameters: Iterable[nn.Parameter]) -> None:
        """Let every backward pass reach ``parameters``, with zeros where their network has not been asked.

        Processes that exchange gradients wait for those of all.
        """
        self._reached = list(parameters)

    def forward(self, x: Tensor, timestep: Tensor, **told: Any) -> tuple[Tensor]:
        """The output (B, C, *S) of states ``x`` at ``timestep`` (B,), in thousandths; tensors ``told`` have B rows."""
        output = self._answer(x, timestep, told)
        if self._reached and output.requires_grad:
            output = output + sum(0 * value.sum() for value in self._reached)
        return (output,)

    def _answer(self, x: Tensor, timestep: Tensor, told: dict[str, Any]) -> Tensor:
        below = self._below(timestep)
        if len(set(below)) == 1:
            return self.networks[below[0]](x, timestep=timestep, **told)[0]
        parts, places = [], []
        for which, network in enumerate(self.networks):
            rows = torch.tensor([row for row, own in enumerate(below) if own == which], device=x.device)
            own = {name: value[rows] if isinstance(value, Tensor) else value for name, value in told.items()}
            parts.append(network(x[rows], timestep=timestep[rows], **own)[0])
            places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _below(self, timestep: Tensor) -> list[bool]:
        """For each row, whether it is the second network's."""
        # A plan has no values, and plays the first segment.
        return [False] if timestep.is_meta else (timestep <= TIMESTEPS * self.edge).tolist()
