"""The interface of a model family as a teacher: one small class for each family."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..core.guidance import Guidance, Renormalisation
from ..core.heads import HeadSite
from ..core.parameterisations.base import Parameterisation
from ..core.parameterisations.kinds import FLOW, parameterisation_of
from ..core.tensors import per_sample, working
from ..errors import UsageError
from ..presets.choices import BITSANDBYTES
from ..presets.families import edge_of, renormalised_by
from ..weights.quantisation import COMPUTED_IN

if TYPE_CHECKING:
    from ..presets.schema import TeacherSection
    from .encoders import EncoderFactory

Conditioning = dict[str, Tensor]
"""What the network is told besides state and time; every tensor has the batch first."""

# A model of diffusers, or a shared base in one role. What such classes add to nn.Module (config, dtype, their layers)
# torch types as Tensor | Module, so that a checker can say nothing of it.
Network = Any


class TeacherFamily(ABC):
    """Loading, calling and widening of the models of one family.

    The project's convention holds outside: states and velocities (B, C, *S), sigma in [0, 1] with 1 the noise, u = eps
    - x_0. :meth:`call` translates to the model's own.

    Attributes:
        model_name: the class of its models, as their config names it.
        fine_steps: Euler steps of the teacher's fine solution.
        beside_steps: Euler steps of its samples beside a student's, in previews and inspection.
        trained_in_full: dotted paths of linear layers that a student with adapters trains in full, besides the head.
        config_not_published: fields of the base's config that published GM adapters leave out.
        input_field, output_field: the fields of a config that say how many channels its networks take and give.
        unread_fields: fields of released configs that their class has no use for.
        usual_fields: values that released networks have in fields of the config which no tensor shows.
        asks_for_dtype: names of modules that ask their first layer for its dtype before they compute.
        embeds_guidance: whether its networks have an input for the guidance scale.
        predicts: the row of :mod:`~piflow_cli.core.parameterisations.kinds` of what its networks predict.
        modular_blocks: the class of the blocks that its stock pipeline is made of, where that is a modular one.
        read_on_host: entries of the conditioning, of both halves of guidance, that :meth:`call` reads in host memory.
        guidance: the value of that input, or what stock pipelines guide by; ``guidance_2``: that of a second network.
    """

    name: ClassVar[str]
    model_name: ClassVar[str]
    fine_steps: ClassVar[int]
    beside_steps: ClassVar[int]
    trained_in_full: ClassVar[tuple[str, ...]] = ()
    config_not_published: ClassVar[tuple[str, ...]] = ()
    input_field: ClassVar[str] = "in_channels"
    output_field: ClassVar[str] = "out_channels"
    unread_fields: ClassVar[tuple[str, ...]] = ()
    usual_fields: ClassVar[Mapping[str, tuple[float, ...]]] = MappingProxyType({})
    asks_for_dtype: ClassVar[tuple[str, ...]] = ()
    embeds_guidance: ClassVar[bool] = False
    modular_blocks: ClassVar[str | None] = None
    read_on_host: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[str] = FLOW

    def __init__(self, guidance: float = 1.0, guidance_2: float | None = None) -> None:
        self.guidance = guidance
        self.guidance_2 = guidance if guidance_2 is None else guidance_2

    @abstractmethod
    def head_site(self, model: Network) -> HeadSite:
        """The place of a policy head in ``model``, or in each of its :meth:`networks`."""

    def networks(self, model: Network) -> Mapping[str, Network]:
        """The networks that ``model`` is made of, by the beginning of their names in it: one of its own, mostly."""
        return {"": model}

    def network(self, model: Network) -> Network:
        """The first of the :meth:`networks` of ``model``, all of which are built alike."""
        return next(iter(self.networks(model).values()))

    def together(self, networks: Sequence[Network]) -> Network:
        """The model that is made of ``networks``, as :meth:`networks` has them."""
        (model,) = networks
        return model

    def prepare(self, base: Path, config: Path | None) -> Path:
        """The folder that :meth:`load` takes, made from a preset's `base` and `config`; most bases are one already."""
        return base

    @abstractmethod
    def load(self, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The teacher in ``folder``, in evaluation mode, on the CPU, its weights in ``dtype``."""

    def load_base(self, folder: Path, precision: str) -> nn.Module:
        """The teacher in ``folder`` as adapters sit on it.

        ``precision``: fp32 or bf16; int8 or nf4, of the linear layers but those of :meth:`kept_whole`, the rest in
        bfloat16; fp8 is bfloat16 until :func:`~piflow_cli.weights.quantisation.store_in_fp8` has been told of the
        adapters too.
        """
        if precision in BITSANDBYTES:
            return self.load_quantised(folder, precision, sorted(self.kept_whole(self.outline(folder))))
        return self.load(folder, COMPUTED_IN[precision])

    def load_quantised(self, folder: Path, precision: str, keep: Sequence[str]) -> nn.Module:
        """The teacher in ``folder`` with linear layers in int8 or nf4, except at ``keep``; the rest in bfloat16."""
        raise UsageError(
            f"teachers of the family {self.name} are not quantised", "choose --base-precision bf16 or fp32"
        )

    def kept_whole(self, model: Network) -> set[str]:
        """Dotted paths of layers that are never quantised: those that students copy, and the delicate last layer."""
        return {self.head_site(model).projection, *self.trained_in_full}

    @abstractmethod
    def outline(self, folder: Path) -> nn.Module:
        """The architecture in ``folder`` without its weights, on the meta device."""

    @abstractmethod
    def build(self, config: dict) -> nn.Module:
        """A model of the architecture that ``config`` states, with random weights."""

    @abstractmethod
    def call(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """The output of ``model`` at states ``x`` (B, C, *S) and noise levels (B,): velocity, or policy parameters.

        Networks that are no flow models are told what :meth:`told` gives, and predict what ``predicts`` says.
        """

    def told(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, C, *S) and noise levels (B,) as the network takes them: scaled, and as timesteps, in one dtype."""
        scale, timestep = self.parameterisation.input_scale(sigma), self.parameterisation.timestep(sigma)
        return per_sample(scale, x) * x, timestep.to(x.dtype)

    def velocity(self, model: Network, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity (B, C, *S) of a teacher at states ``x`` and noise levels (B,), without guidance."""
        output = self.call(model, x, sigma, conditioning)
        if self.parameterisation.flow:
            return output
        return self.parameterisation.affine(sigma.to(x.device)).velocity(output[:, : x.shape[1]], working(x))

    @property
    def parameterisation(self) -> Parameterisation:
        """What its networks predict, and how they are told state and time."""
        return parameterisation_of(self.predicts)

    @abstractmethod
    def unconditional(self, model: Network, conditioning: Conditioning) -> Conditioning:
        """The conditioning of the other half in classifier-free guidance."""

    def embedding_dim(self, model: Network) -> int:
        """Width of the timestep embedding that the head taps: that of the tokens, where a family does not differ."""
        return model.config.num_attention_heads * model.config.attention_head_dim

    def adapter_targets(self, model: Network) -> list[str]:
        """Dotted paths of the linear layers that carry adapters; none where students are trained in full."""
        return []

    @abstractmethod
    def longest_conditioning(self, model: Network) -> Conditioning:
        """Conditioning of one sample, in the shape of the longest text, on the meta device.

        Masks whose values shape the network have values.
        """

    def encoders(self, section: TeacherSection) -> EncoderFactory:
        """The encoders of a text-to-image teacher, not loaded yet; raises UsageError for a family of classes alone."""
        raise UsageError(
            f"the family {self.name} is conditioned on class labels, not on text",
            "name pictures with labels; distill: --data SOURCE, and no --prompts",
        )


def guidance_of(section: TeacherSection) -> Guidance:
    """The classifier-free guidance of a preset's teacher; none where the network embeds the scale."""
    if section.guidance_mode == "embedded":
        return Guidance()
    own = renormalised_by(section.family) if section.guidance_mode == "renormalised" else None
    edge = edge_of(section.family)
    return Guidance(
        section.guidance,
        section.guidance_interval,
        section.guidance_mode == "orthogonal",
        None if own is None else Renormalisation(*own),
        None if edge is None or section.guidance_2 is None else (edge, section.guidance_2),
    )


def matching(model: Network, pattern: str) -> list[str]:
    """Dotted paths of the linear layers of ``model`` that a regular expression matches in full."""
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and re.fullmatch(pattern, name)
    ]


def repeat(conditioning: Conditioning, times: int) -> Conditioning:
    """The conditioning of a batch with ``times`` states of each sample, state-major."""
    return {name: value.repeat(times, *[1] * (value.ndim - 1)) for name, value in conditioning.items()}


class GuidedRows(NamedTuple):
    """Rows (n,) int64 of a batch of states, ``here`` in host memory and ``there`` on the device."""

    here: Tensor
    there: Tensor


def guided_rows(guidance: Guidance, sigma: Tensor) -> Tensor:
    """The rows (n,) int64, in host memory, of noise levels (B,) at which the other half of ``guidance`` is needed."""
    if guidance.scale == 1:
        return torch.empty(0, dtype=torch.int64)
    return guidance.acts(sigma.cpu()).nonzero().flatten()


@torch.no_grad()
def teacher_velocity(
    family: TeacherFamily,
    model: Network,
    guidance: Guidance,
    x: Tensor,
    sigma: Tensor,
    conditioning: Conditioning,
    guided: GuidedRows | None = None,
    most: int = 0,
) -> Tensor:
    """Guided velocity (B, C, *S) of a teacher at states ``x`` and noise levels ``sigma`` (B,).

    ``x`` may hold several states of each conditioned sample, state-major. ``guided``: the rows whose other half is
    asked for, all where the guidance acts among them; None reads them off ``sigma``, and waits for its device. Both
    halves are one batch where that has at most ``most`` rows, and what they are told has the same shapes.
    """
    told = repeat(conditioning, x.shape[0] // next(iter(conditioning.values())).shape[0])
    if guided is None:
        rows = guided_rows(guidance, sigma)
        guided = GuidedRows(rows, rows.to(x.device))
    if not len(guided.here):
        return family.velocity(model, x, sigma, told)
    chosen = {name: value[guided.here if value.device.type == "cpu" else guided.there] for name, value in told.items()}
    other, there = family.unconditional(model, chosen), guided.there
    of, at = x[there], sigma[there]
    alike = all(told[name].shape[1:] == value.shape[1:] for name, value in other.items())
    if alike and len(x) + len(of) <= most:
        both = {name: torch.cat([told[name], value]) for name, value in other.items()}
        answers = family.velocity(model, torch.cat([x, of]), torch.cat([sigma, at]), both)
        conditional, unconditional = answers.split([len(x), len(of)])
    else:
        conditional, unconditional = family.velocity(model, x, sigma, told), family.velocity(model, of, at, other)
    velocity = guidance(conditional[there], unconditional, of, at)
    return conditional.to(velocity.dtype).index_copy(0, there, velocity)
