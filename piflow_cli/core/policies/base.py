"""The interface of policies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ..tensors import per_sample, working
from ..timegrid import to_sigma
from ..validation import check_finite

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..parameterisations.base import Affine

SIGMA_FLOOR = 1e-6


class Policy(ABC):
    """Velocities below a source state, without the network (pi-Flow, arXiv 2510.14974, section 3).

    A policy belongs to one network evaluation at (``x_src``, ``raw_src``): ``x_src`` (B, C, *S), ``raw_src`` (B,) raw
    times, ``shift`` the map from raw time to sigma. Times are computed in float64, states in float32.

    A new policy is a frozen dataclass with :meth:`layout`, :meth:`from_output` and :meth:`posterior_mean`; the rest has
    a default here. All tensors among its fields have the samples first. ``outputs``: names of the fields that the
    network gives. ``fast_rollout``: the module of :mod:`piflow_cli.core.kernels` that follows the policy; a subclass,
    whose velocities may be others, does not inherit it. ``exact``: whether :meth:`mean_velocity` is a closed form,
    which rollouts take in place of substeps.
    """

    # The type that dataclasses.replace asks for.
    __dataclass_fields__: ClassVar[dict[str, Any]]
    outputs: ClassVar[tuple[str, ...]] = ()
    fast_rollout: ClassVar[str | None] = None
    exact: ClassVar[bool] = False

    x_src: Tensor
    raw_src: Tensor
    shift: float

    @abstractmethod
    def posterior_mean(self, x: Tensor, raw: Tensor) -> Tensor:
        """The x_0 (B, C, *S) that the policy expects at states ``x`` (B, C, *S) and raw times ``raw`` (B,)."""

    @staticmethod
    def layout(components: int, channels: int) -> tuple[tuple[int, int] | None, ...]:
        """The cuts of a network's output: (k, c) for a part (B, k, c, *S), None for one number per sample, (B,)."""
        raise NotImplementedError("no network emits this policy")

    @classmethod
    def from_output(
        cls, parts: Sequence[Tensor], x_src: Tensor, raw_src: Tensor, *, shift: float, segment: float
    ) -> Self:
        """The policy made of a network output that was cut by :meth:`layout`.

        ``segment``: the raw length that the policy was trained to span.
        """
        raise NotImplementedError("no network emits this policy")

    @classmethod
    def in_velocities(cls, parts: Sequence[Tensor], x_src: Tensor, affine: Affine) -> list[Tensor]:
        """Parts of a network's output as velocities, of a network that predicts something else (``affine``).

        Velocities stand in the first part, (B, k, C, *S).
        """
        return [affine.velocity(working(parts[0]), working(x_src).unsqueeze(1)), *parts[1:]]

    def mean_velocity(self, raw_from: Tensor, raw_to: Tensor) -> Tensor:
        """Velocity (B, C, *S) averaged over sigma between raw times (B,), for policies that are ``exact``."""
        raise NotImplementedError(f"a {type(self).__name__} is followed in substeps")

    def detach(self) -> Self:
        """The same policy, cut from the graph of the network."""
        return replace(self, **{name: getattr(self, name).detach() for name in (*self.outputs, "x_src")})

    def repeated(self, times: int) -> Self:
        """The policy of ``times`` batches like its own, one behind the other; views of a single sample, else copies."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return replace(
            self, **{name: value.expand(times, *value.shape).flatten(0, 1) for name, value in tensors.items()}
        )

    def without(self, dropped: Tensor | None) -> Self:
        """The policy without the components (B, K) that are marked; itself where it has none."""
        return self

    def with_temperature(self, temperature: float) -> Self:
        """The policy made sharper by ``temperature`` in (0, 1]; itself where it has no spread."""
        return self

    def check_source(self) -> None:
        """Raise :class:`~piflow_cli.core.validation.PolicyError` for bad values that a rollout would not show.

        It reads values in host memory only.
        """

    def check_outputs(self) -> None:
        """Raise :class:`~piflow_cli.core.validation.PolicyError` for outputs that are not finite.

        It reads values in host memory only.
        """
        for name in self.outputs:
            # A log-weight of minus infinity is a weight of zero.
            check_finite(name, getattr(self, name), minus_infinity=name == "logweights")

    def velocity(self, x: Tensor, raw: Tensor) -> Tensor:
        """Velocity u = dx / dsigma = (x - x_0) / sigma at states ``x`` (B, C, *S) and raw times (B,).

        The raw times are not above that of the source.
        """
        x = working(x)
        return (x - self.posterior_mean(x, raw)) / per_sample(self.sigma(raw), x)

    def sigma(self, raw: Tensor) -> Tensor:
        """Noise level (B,) float64 of raw times, kept off zero, where the velocity has no finite form."""
        return to_sigma(raw.double(), self.shift).clamp(min=SIGMA_FLOOR)

    @cached_property
    def sigma_src(self) -> Tensor:
        """Noise level of the source, (B,) float64."""
        return self.sigma(self.raw_src)
