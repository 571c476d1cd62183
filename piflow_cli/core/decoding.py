"""From the output of a widened network to a policy: shapes, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .parameterisations.base import Affine, Parameterisation
from .parameterisations.kinds import parameterisation_of
from .policies.base import Policy
from .policies.kinds import policy_class
from .timegrid import to_sigma

PACKED_AXES = 3  # of tokens (B, tokens, W)
CELL_AXES = 4  # of cells (B, W, rows, columns); tokens of videos (B, frames, rows, columns, W) have one more


@dataclass(frozen=True)
class PolicyDecoder:
    """Reads a policy out of the network's output.

    ``components``: K of gm or momentum, or N points or coefficients of DX. ``segment``: raw length that a DX policy
    spans. ``patch``: None for outputs (B, W, *S) with channels first, as models with unpatchify inside forward() give
    them; the number of positions per token for packed outputs (B, tokens, W), cells (B, W, rows, columns) of them, or
    tokens of videos (B, frames, rows, columns, W).
    The policy's own ``layout`` says what an output holds, in order: GM means (k, c), log-weights (k, 1) and one
    log-std, for example. Packed tokens hold means (k, c, position), log-weights (k, position) and so on, and one
    log-std. ``predicts``: the row of :mod:`~piflow_cli.core.parameterisations.kinds` whose predictions stand where
    velocities are read.
    """

    kind: str
    components: int
    shift: float = 1.0
    segment: float = 1.0
    patch: int | None = None
    predicts: str = "flow"

    @property
    def parameterisation(self) -> Parameterisation:
        """What the network predicts, and how it is told state and time."""
        return parameterisation_of(self.predicts)

    def unpack(self, sample: Tensor) -> Tensor:
        """A pipeline's state as (B, C, *S); packed tokens (B, tokens, C * patch) get S = (tokens, patch).

        Cells (B, C * patch, rows, columns) get S = (patch, rows, columns), and tokens (B, frames, rows, columns, C *
        patch) of videos S = (patch, frames, rows, columns).
        """
        if self.patch is None:
            return sample
        if sample.ndim == CELL_AXES:
            return sample.unflatten(1, (-1, self.patch))
        apart = sample.unflatten(-1, (-1, self.patch))
        return apart.movedim(1, 2) if sample.ndim == PACKED_AXES else apart.movedim((-2, -1), (1, 2))

    def pack(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The inverse of :meth:`unpack`, in ``dtype`` or that of ``x``; it copies once at most."""
        dtype = x.dtype if dtype is None else dtype
        if self.patch is None:
            return x.to(dtype)
        if x.ndim == CELL_AXES + 1:
            return x.to(dtype).flatten(1, 2)
        if x.ndim > CELL_AXES + 1:
            return x.movedim((1, 2), (-2, -1)).to(dtype, memory_format=torch.contiguous_format).flatten(-2)
        return x.movedim(2, 1).to(dtype, memory_format=torch.contiguous_format).flatten(2)

    def packed_sum(self, packed: Tensor, x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """``packed`` plus ``scale`` times a state ``x`` (B, C, *S), packed, in ``dtype``."""
        # Torch writes sums in any order of axes and any dtype, but gradients do not pass through memory that is given.
        room = None if x.requires_grad else self.unpack(torch.empty_like(packed, dtype=dtype))
        return self.pack(torch.add(self.unpack(packed), x, alpha=scale, out=room), dtype)

    def policy(self, output: Tensor, sample: Tensor, raw_src: Tensor, affine: Affine | None = None) -> Policy:
        """The policy of one network evaluation at the state ``sample`` and raw times ``raw_src`` (B,).

        ``output`` is what the network emitted, in the shape that the class describes. ``affine``: how velocities follow
        from it, where that is known.
        """
        x, kind = self.unpack(sample), policy_class(self.kind)
        parts, parameterisation = self._split(output, *kind.layout(self.components, x.shape[1])), self.parameterisation
        if not parameterisation.flow:
            if affine is None:
                affine = parameterisation.of_students(to_sigma(raw_src.double(), self.shift).to(x.device))
            parts = kind.in_velocities(parts, x, affine)
        return kind.from_output(parts, x, raw_src, shift=self.shift, segment=self.segment)

    def _split(self, output: Tensor, *parts: tuple[int, int] | None) -> list[Tensor]:
        """Parts (B, k, c, *S) of ``output`` for each (k, c) of a layout; for None one number per sample, (B,)."""
        axis = 1 if self.patch is None or output.ndim == CELL_AXES else -1
        positions = 1 if self.patch is None else self.patch
        sizes = [1 if part is None else part[0] * part[1] * positions for part in parts]
        return [self._shaped(value, part) for value, part in zip(output.split(sizes, dim=axis), parts)]

    def _shaped(self, value: Tensor, part: tuple[int, int] | None) -> Tensor:
        if part is None:
            return value.flatten(1)[:, 0]
        if self.patch is None:
            return value.unflatten(1, part)
        if value.ndim == CELL_AXES:
            return value.unflatten(1, (*part, self.patch))
        apart = value.unflatten(-1, (*part, self.patch))
        return apart.movedim(1, 3) if value.ndim == PACKED_AXES else apart.movedim((-3, -2, -1), (1, 2, 3))
