"""One base in memory, in three roles: teacher, student, and moving average of the student.

The frozen base carries low-rank adapters (LoRA, arXiv 2106.09685), and a switch at every module of which the student
has its own version. A role is a setting of flags and touches no requires_grad. At rest the base plays the student, so
that gradient checkpointing recomputes in backward() what ran forward.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..core.heads import HeadSite, PolicyHead, tap_embedding, widened_channels
from ..teachers.base import Network

if TYPE_CHECKING:
    from peft import LoraConfig

Role = Literal["teacher", "student", "average"]
REST: Role = "student"


class Switch(nn.Module):
    """A module of the base and its counterparts in the other roles; a call goes to that of the current role."""

    def __init__(self, variants: Mapping[Role, nn.Module]) -> None:
        super().__init__()
        self.variants = nn.ModuleDict(dict(variants))
        self.role: Role = REST

    def forward(self, *args: Any) -> Any:
        return self.variants[self.role](*args)


class HeadSwitch(Switch):
    """A switch at the output projection; it also hands the tapped timestep embedding to the current head."""

    embedding: Tensor | None = None

    def forward(self, *args: Any) -> Any:
        embedding, self.embedding = self.embedding, None
        module = self.variants[self.role]
        if isinstance(module, PolicyHead):
            module.embedding = embedding
        return module(*args)


class FullPrecisionLinear(nn.Linear):
    """A float32 layer inside a model of another dtype: it computes in float32 and answers in the input's dtype."""

    @classmethod
    def like(cls, layer: nn.Linear) -> FullPrecisionLinear:
        """A trainable float32 copy of ``layer``."""
        size = (layer.in_features, layer.out_features, layer.bias is not None)
        copy = nn.utils.skip_init(cls, *size, device=layer.weight.device, dtype=torch.float32)
        with torch.no_grad():
            for own, value in zip(copy.parameters(), layer.parameters(), strict=True):
                own.copy_(value)
        return copy

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype)).to(input.dtype)


class SharedBase:
    """A base, and the parts that each of ``roles`` besides the teacher brings.

    ``sites``: where policy heads are, by the beginning of the names of the network that each is in; ``heads``: those of
    each such role. ``copies``: dotted paths of linear layers that the student trains in full. ``adapter``: LoRA of all
    such roles. The base itself is changed in place.
    """

    def __init__(
        self,
        base: Network,
        sites: Mapping[str, HeadSite],
        heads: Mapping[Role, Mapping[str, PolicyHead]],
        copies: Sequence[str],
        adapter: LoraConfig,
    ) -> None:
        self.base = base
        base.requires_grad_(False)
        # Of networks that fold tokens, by the beginning of their names: the teacher's channels, and the student's.
        self.channels = {
            start: (self.network(start).out_channels, widened_channels(self.network(start), site, heads[REST][start]))
            for start, site in sites.items()
            if site.unpatchify
        }
        self.tuned = _add_adapters(base, adapter, list(heads))
        self.switches: dict[str, Switch] = {}
        for path in copies:
            layer = base.get_submodule(path)
            self._install(path, Switch({"teacher": layer, **{role: FullPrecisionLinear.like(layer) for role in heads}}))
        for start, site in sites.items():
            path = start + site.projection
            own: dict[Role, nn.Module] = {role: of_role[start] for role, of_role in heads.items()}
            self._install(path, HeadSwitch({"teacher": base.get_submodule(path), **own}))
            tap_embedding(self.network(start), site, self.switches[path])
        self._finish(list(heads))
        self.play(REST)

    def _install(self, path: str, switch: Switch) -> None:
        self.switches[path] = switch
        self.base.set_submodule(path, switch)

    def _finish(self, roles: list[Role]) -> None:
        """Give gradients to the student alone, and start every other role as a float32 copy of it."""
        student = dict(self.view(REST).named_parameters())
        for role in roles:
            for name, value in self.view(role).named_parameters():
                value.data = value.data.to(student[name].device, torch.float32)
                value.requires_grad_(role == REST)
        for role in set(roles) - {REST}:
            self.view(role).load_state_dict(student)

    def network(self, start: str) -> Network:
        """The network of the base whose names begin with ``start``; the base itself for none."""
        return self.base.get_submodule(start.removesuffix("."))

    @property
    def adapter_scale(self) -> float:
        """The factor of the adapters' product, the same everywhere."""
        return self.tuned[0].scaling[REST]

    def play(self, role: Role) -> None:
        """Set every flag to ``role``."""
        for layer in self.tuned:
            layer._disable_adapters = role == "teacher"
            if role != "teacher":
                layer._active_adapter = [role]
        for switch in self.switches.values():
            switch.role = role
        for start, channels in self.channels.items():
            self.network(start).out_channels = channels[role != "teacher"]

    @contextmanager
    def playing(self, role: Role) -> Generator[nn.Module]:
        """The base in another role for a while; afterwards it is the student again."""
        self.play(role)
        try:
            yield self.base
        finally:
            self.play(REST)

    def view(self, role: Role) -> View:
        """The base in one role."""
        return View(self, role)

    def cast_by_autocast(self) -> None:
        """Leave the dtype of what the adapters read to autocast, under which every call is to be.

        peft would make float32 of it before, which autocast rounds back to the same numbers.
        """
        for layer in self.tuned:
            layer.cast_input_dtype_enabled = False

    def train_adapters(self) -> None:
        """Let the dropout of the student's adapters act; everything else stays in evaluation mode."""
        for layer in self.tuned:
            layer.lora_dropout[REST].train()


class View:
    """A shared base in one role, which can be called, counted, saved and loaded like a model of its own.

    Its parameters are those that the role brings: none for the teacher; adapters, copies and head for the student and
    for its average, under the same names and in the same order. Calls in other roles than the student take no
    gradients.
    """

    def __init__(self, shared: SharedBase, role: Role) -> None:
        self.shared = shared
        self.role = role

    @property
    def base(self) -> nn.Module:
        """The module that holds the weights; what accelerate prepares and pipelines take."""
        return self.shared.base

    @property
    def config(self) -> Any:
        return self.base.config

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.role == REST:
            return self.base(*args, **kwargs)
        with torch.no_grad(), self.shared.playing(self.role):
            return self.base(*args, **kwargs)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names without the role: ``<module>.lora_A.weight``, and those of the modules that the switches replace."""
        # Looked up each time: sharding replaces parameters.
        for inside, value in self.base.named_parameters():
            if (name := self.own_name(inside)) is not None:
                yield name, value

    def own_name(self, inside: str) -> str | None:
        """The name in this role of the base's parameter ``inside``; None if the role does not bring it."""
        marks = {
            f".lora_A.{self.role}.": ".lora_A.",
            f".lora_B.{self.role}.": ".lora_B.",
            f".variants.{self.role}.": ".",
        }
        names = [
            inside.replace(mark, plain) for mark, plain in marks.items() if mark in inside and self.role != "teacher"
        ]
        return names[0] if names else None

    def parameters(self) -> Iterator[nn.Parameter]:
        return (value for _, value in self.named_parameters())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy ``state`` into the parameters; raises KeyError where names differ, RuntimeError where shapes do."""
        own = dict(self.named_parameters())
        if own.keys() != state.keys():
            raise KeyError(f"names differ: {', '.join(sorted(own.keys() ^ state.keys())[:3])}")
        for name, value in own.items():
            value.copy_(state[name])

    def get_submodule(self, path: str) -> nn.Module:
        """The module at ``path`` as this role has it."""
        return (
            self.shared.switches[path].variants[self.role]
            if path in self.shared.switches
            else self.shared.base.get_submodule(path)
        )

    def to(self, *args: Any) -> View:
        """Move the base, and with it its views in all roles."""
        self.base.to(*args)
        return self


class PartView(View):
    """One network of a shared base of several, in the role of the ``whole``'s view; its names begin after ``start``."""

    def __init__(self, whole: View, start: str) -> None:
        super().__init__(whole.shared, whole.role)
        self.start = start

    @property
    def base(self) -> nn.Module:
        return self.shared.network(self.start)

    def get_submodule(self, path: str) -> nn.Module:
        return super().get_submodule(self.start + path)


def root(model: Network | View) -> Network:
    """The module that holds the weights: the base of a view, and any other model itself."""
    return model.base if isinstance(model, View) else model


def _add_adapters(base: Network, config: LoraConfig, roles: list[Role]) -> list[Any]:
    # peft takes seconds to import, and students that are trained in full do without it.
    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    with warnings.catch_warnings():
        # That there are several adapters is the point.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        for role in roles:
            # add_adapter also lets stock pipelines put further adapters beside these.
            base.add_adapter(config, role) if hasattr(base, "add_adapter") else inject_adapter_in_model(
                config, base, role
            )
    layers = [module for module in base.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        # peft makes them in training mode, in which the average would drop out what it reads in every picture.
        layer.eval()
    return layers
