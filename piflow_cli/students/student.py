"""Students: a teacher's architecture with a policy head."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.decoding import PolicyDecoder
from ..core.heads import HeadSite, HeadSizes, PolicyHead, attach_head
from ..core.policies.base import Policy
from ..core.policies.kinds import head_class
from ..core.timegrid import TimeGrid, to_sigma
from ..errors import UsageError
from ..teachers.base import Conditioning, Network, TeacherFamily
from .scheduler import PolicyScheduler
from .shared_base import Role, SharedBase, View, root

if TYPE_CHECKING:
    from peft import LoraConfig

    from ..presets.schema import AdapterSection
    from .facts import StudentFacts
    from .teacher_loras import TeacherLora


class Student:
    """A widened model, or a shared base in the student's role, with the facts that turn its output into policies.

    ``loras``: what is fused into its base.
    """

    def __init__(
        self, family: TeacherFamily, model: Network, facts: StudentFacts, loras: tuple[TeacherLora, ...] = ()
    ) -> None:
        self.family = family
        self.model = model
        self.facts = facts
        self.loras = loras
        self.decoder = PolicyDecoder(
            facts.policy, facts.components, facts.shift, facts.segment, predicts=family.predicts
        )

    @property
    def device(self) -> torch.device:
        """The device of its network."""
        return next(root(self.model).parameters()).device

    def policy(self, model: Network, x: Tensor, raw: Tensor, conditioning: Conditioning) -> Policy:
        """The policy of one evaluation at states ``x`` (B, C, *S) and raw times (B,).

        ``model``: the student's own, or its distributed wrapper.
        """
        output = self.family.call(model, x, to_sigma(raw, self.facts.shift), conditioning)
        return self.decoder.policy(output, x, raw)

    def grid(self, nfe: int) -> TimeGrid:
        """The times of ``nfe`` evaluations."""
        return TimeGrid(nfe, self.facts.final_step_scale, self.facts.shift, self.family.parameterisation.noisiest)

    def average(self) -> Student:
        """A copy that keeps the moving average of the weights; it takes no gradients."""
        if isinstance(self.model, View):
            return Student(self.family, self.model.shared.view("average"), self.facts, self.loras)
        return Student(self.family, copy.deepcopy(self.model).eval().requires_grad_(False), self.facts)

    def at(self, iteration: int) -> Student:
        """The same student, saying that it was trained for ``iteration`` iterations."""
        return self.telling(replace(self.facts, iterations=iteration))

    def telling(self, facts: StudentFacts) -> Student:
        """The same student with other ``facts``."""
        return Student(self.family, self.model, facts, self.loras)

    def scheduler(
        self,
        *,
        shift: float | None = None,
        substeps: int | None = None,
        temperature: float | str | None = None,
        stochastic: float = 0.0,
        patch: int | None = None,
    ) -> PolicyScheduler:
        """The sampler with the settings that the student was trained for, except those that are given.

        ``patch``: positions per token in pipelines that pack their latents.
        """
        facts = self.facts
        return PolicyScheduler(
            kind=facts.policy,
            components=facts.components,
            patch=patch,
            segment=facts.segment,
            shift=facts.sampling_shift(shift),
            final_step_scale=facts.final_step_scale,
            substeps=facts.substeps if substeps is None else substeps,
            temperature=facts.sampling_temperature if temperature is None else temperature,
            stochastic=stochastic,
            predicts=self.family.predicts,
        )


def new_head(
    model: Network, family: TeacherFamily, facts: StudentFacts, generator: torch.Generator | None = None
) -> tuple[HeadSite, PolicyHead]:
    """The head of a student of the network ``model`` and its site, initialised from the model's output projection."""
    site = family.head_site(model)
    sizes = HeadSizes(facts.components, family.embedding_dim(model), facts.logstd_width)
    return site, head_class(facts.policy).build(model.get_submodule(site.projection), site, sizes, generator=generator)


def new_heads(
    model: Network, family: TeacherFamily, facts: StudentFacts
) -> tuple[dict[str, HeadSite], dict[str, PolicyHead]]:
    """The sites and the heads of :func:`new_head` in each network of ``model``, by the beginning of its names."""
    made = {start: new_head(network, family, facts) for start, network in family.networks(model).items()}
    return {start: site for start, (site, _) in made.items()}, {start: head for start, (_, head) in made.items()}


def widen(
    model: Network, family: TeacherFamily, facts: StudentFacts, generator: torch.Generator | None = None
) -> Student:
    """Turn ``model`` itself into a student: the output projection of each network gives way to a policy head."""
    for network in family.networks(model).values():
        site, head = new_head(network, family, facts, generator)
        attach_head(network, site, head)
    return Student(family, model, facts)


def student_of(teacher: Network, family: TeacherFamily, facts: StudentFacts, seed: int) -> Student:
    """A fully trained student beside a frozen teacher: a copy of it with a policy head, initialised by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The copy of a frozen teacher is frozen too, and would leave the head to learn alone.
        return widen(copy.deepcopy(teacher).requires_grad_(True), family, facts, generator)


def adapted_student(
    base: Network, family: TeacherFamily, facts: StudentFacts, adapter: AdapterSection, seed: int
) -> Student:
    """A student that shares the frozen ``base`` with its teacher and its average, initialised by ``seed``.

    It brings adapters, a policy head and its own copy of what its family trains in full. Raises UsageError for a family
    that has no place for adapters.
    """
    targets = family.adapter_targets(base)
    if not targets:
        raise UsageError(
            f"students of the family {family.name} are trained in full", "leave the section adapter out of the preset"
        )
    lora = adapter_config(dict.fromkeys(targets, adapter.rank), adapter.alpha / adapter.rank, adapter.dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sites, heads = new_heads(base, family, facts)
        roles: dict[Role, dict[str, PolicyHead]] = {"student": heads, "average": copy.deepcopy(heads)}
        shared = SharedBase(base, sites, roles, family.trained_in_full, lora)
    return Student(family, shared.view("student"), facts)


def loaded_student(base: Network, family: TeacherFamily, facts: StudentFacts, ranks: dict[str, int]) -> Student:
    """A student on its ``base``, with adapters of ``ranks`` at dotted paths.

    The parts that it brings are on the meta device until they are loaded.
    """
    with torch.device("meta"):
        sites, heads = new_heads(base, family, facts)
        shared = SharedBase(
            base, sites, {"student": heads}, family.trained_in_full, adapter_config(ranks, scale=1.0, dropout=0.0)
        )
    return Student(family, shared.view("student"), facts)


def unloaded_student(family: TeacherFamily, config: dict, facts: StudentFacts) -> Student:
    """A student that brings all its weights, in the architecture of ``config``, on the meta device."""
    from accelerate import init_empty_weights

    # Tables that no file holds are computed; only what will be loaded stays empty.
    with init_empty_weights(include_buffers=False):
        model = family.build(config)
    with torch.device("meta"):
        return widen(model, family, facts)


def adapter_config(ranks: dict[str, int], scale: float, dropout: float) -> LoraConfig:
    """Adapters of ``ranks`` at dotted paths, whose product is multiplied by ``scale``.

    They start gaussian, and without effect.
    """
    # peft takes seconds to import, and students that are trained in full do without it.
    from peft import LoraConfig

    rank = next(iter(ranks.values()))
    own = {path: other for path, other in ranks.items() if other != rank}
    return LoraConfig(
        r=rank,
        # peft counts in fractions too.
        lora_alpha=scale * rank,  # ty: ignore[invalid-argument-type]
        rank_pattern=own,
        alpha_pattern={path: scale * other for path, other in own.items()},
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules="|".join(map(re.escape, ranks)),
    )
