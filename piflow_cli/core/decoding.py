"""Between what a widened network emits and a policy: shapes, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .policies import DXPolicy, GMFlowPolicy, Policy

PolicyKind = Literal["gm", "dx", "dx-poly"]


@dataclass(frozen=True)
class PolicyDecoder:
    """Reads a policy out of the network's output.

    ``components``: K mixture components, or N points or coefficients of DX. ``segment``: raw length that a DX policy
    spans. ``patch``: None for outputs (B, W, *S) with channels first, as models with unpatchify inside forward() give
    them; the number of positions per token for packed outputs (B, tokens, W).
    Channels of an output, in order: GM means (k, c), log-weights (k), one log-std; DX velocities (n, c). Packed tokens
    hold means (k, c, position), log-weights (k, position), one log-std; DX (n, c, position).
    """

    kind: PolicyKind
    components: int
    shift: float = 1.0
    segment: float = 1.0
    patch: int | None = None

    def unpack(self, sample: Tensor) -> Tensor:
        """A state as the pipeline holds it → (B, C, *S): packed tokens (B, tokens, C * patch) get S = (tokens, patch)."""
        return sample if self.patch is None else sample.unflatten(-1, (-1, self.patch)).movedim(1, 2)

    def pack(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`unpack`."""
        return x if self.patch is None else x.movedim(2, 1).flatten(2)

    def policy(self, output: Tensor, sample: Tensor, raw_src: Tensor) -> Policy:
        """The policy of one network evaluation: ``output`` as emitted at the state ``sample``, raw times ``raw_src`` (B,)."""
        x = self.unpack(sample)
        channels = x.shape[1]
        if self.kind == "gm":
            means, logweights, logstds = self._split_mixture(output, channels)
            return GMFlowPolicy(means, logweights, logstds, x, raw_src, self.shift)
        if self.patch is None:
            grid = output.unflatten(1, (self.components, channels))
        else:
            grid = output.unflatten(-1, (self.components, channels, self.patch)).movedim(1, 3)
        return DXPolicy(grid, x, raw_src, self.segment, self.shift, polynomial=self.kind == "dx-poly")

    def _split_mixture(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.patch is None:
            sizes = [self.components * channels, self.components, 1]
            means, logweights, logstds = output.split(sizes, dim=1)
            return means.unflatten(1, (self.components, channels)), logweights.unsqueeze(2), logstds.flatten(1)[:, 0]
        sizes = [self.components * channels * self.patch, self.components * self.patch, 1]
        means, logweights, logstds = output.split(sizes, dim=-1)
        means = means.unflatten(-1, (self.components, channels, self.patch)).movedim(1, 3)
        logweights = logweights.unflatten(-1, (self.components, 1, self.patch)).movedim(1, 3)
        return means, logweights, logstds[:, 0, 0]
