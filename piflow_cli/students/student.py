"""Students: a teacher's architecture with a policy head, and the facts that travel with its weights."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import __version__
from .adapter_digests import DIGESTS
from .core.decoding import PolicyDecoder
from .core.heads import HeadSite, HeadSizes, PolicyHead, attach_head
from .core.policies.base import Policy
from .core.policies.kinds import head_class, policy_kind, policy_names
from .core.timegrid import TimeGrid, to_sigma
from .errors import RunError, UsageError
from .fact_ranges import out_of_range
from .scheduler import PolicyScheduler
from .teachers.base import Conditioning, TeacherFamily
from .views import SharedBase, View
from .wording import few

if TYPE_CHECKING:
    from peft import LoraConfig

    from .preset_schema import AdapterSection, Preset

Model = nn.Module | View
METADATA_PREFIX = "piflow."
NAMED_FAULTS = 5
_PARSERS = {"int": int, "float": float}


@dataclass(frozen=True)
class StudentFacts:
    """What a sampler must know of a student; saved as ``piflow.*`` metadata, so that sampling needs no flags.

    ``teacher``: name of the preset; ``base`` and ``revision``: its weights; ``vae``: what shows its latents, or nothing;
    ``segment``: raw length that a DX policy spans; ``substeps``: per unit of raw time; ``temperature``: a number or
    ``auto``; ``guidance``: distilled in.
    """

    teacher: str
    family: str
    base: str
    policy: str
    components: int
    nfe: int
    shift: float
    final_step_scale: float
    segment: float
    substeps: int
    guidance: float
    temperature: str
    logstd_width: int
    iterations: int = 0
    revision: str = ""
    vae: str = ""
    base_dtype: str = "float32"
    version: str = __version__

    def to_metadata(self) -> dict[str, str]:
        """The facts as safetensors metadata: every value a string."""
        return {METADATA_PREFIX + name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> StudentFacts:
        """Read the facts back; raises RunError naming what is missing, malformed, out of range or unknown."""
        values: dict[str, Any] = {}
        known = {METADATA_PREFIX + field.name for field in fields(cls)} | set(DIGESTS)
        faults = [f"{name} is unknown" for name in sorted(metadata) if name.startswith(METADATA_PREFIX) and name not in known]
        for field in fields(cls):
            text = metadata.get(METADATA_PREFIX + field.name)
            try:
                if text is None:
                    faults.append(f"{METADATA_PREFIX}{field.name} is missing")
                else:
                    values[field.name] = _PARSERS.get(field.type, str)(text)
            except ValueError:
                faults.append(f"{METADATA_PREFIX}{field.name} is {text!r}")
        if "policy" in values and values["policy"] not in policy_names():
            raise RunError(f"the student has a policy of unknown type '{values['policy']}'", "update piflow")
        faults += [METADATA_PREFIX + fault for fault in out_of_range(values)]
        if faults:
            raise RunError(
                "the student does not say how to sample it: " + few(faults, NAMED_FAULTS, "; "),
                "use a student that `piflow distill` saved, or update piflow",
            )
        return cls(**values)

    @classmethod
    def of(cls, preset: Preset) -> StudentFacts:
        """What the student of this preset will say of itself."""
        policy, teacher, adapter = preset.policy, preset.teacher, preset.adapter
        return cls(
            teacher=preset.name,
            family=teacher.family,
            base=teacher.base,
            revision="" if teacher.revision is None else teacher.revision,
            vae="" if teacher.vae is None else teacher.vae,
            base_dtype="float32" if adapter is None or adapter.base_precision == "fp32" else "bfloat16",
            policy=policy.kind,
            components=policy.components,
            nfe=policy.nfe,
            shift=policy.shift,
            final_step_scale=policy.final_step_scale,
            segment=TimeGrid(policy.nfe, policy.final_step_scale, policy.shift).segment,
            substeps=policy.substeps,
            guidance=teacher.guidance,
            temperature=str(policy.temperature),
            logstd_width=policy.logstd_width,
        )

    @property
    def base_precision(self) -> str:
        """``base_dtype`` as `--base-precision` has it."""
        return "fp32" if self.base_dtype == "float32" else "bf16"

    @property
    def has_own_segment(self) -> bool:
        """Whether the policy spans a segment of raw time that it was trained with, as DX policies do."""
        return policy_kind(self.policy).own_segment

    @property
    def sampling_temperature(self) -> float | str:
        """``auto`` or a number, as :class:`~piflow_cli.scheduler.PolicyScheduler` takes it."""
        return "auto" if self.temperature == "auto" else float(self.temperature)

    def sampling_shift(self, shift: float | None) -> float:
        """``shift`` where it is given; raises UsageError for another one of a DX policy, whose points are even in its own raw time."""
        if shift is not None and shift != self.shift and self.has_own_segment:
            raise UsageError(f"the shift {self.shift:g} is part of a {self.policy} policy: {shift:g} is another", "leave --shift out")
        return self.shift if shift is None else shift


class Student:
    """A widened model, or the student's view of a shared base, with the facts that turn its output into policies."""

    def __init__(self, family: TeacherFamily, model: Model, facts: StudentFacts) -> None:
        self.family = family
        self.model = model
        self.facts = facts
        self.decoder = PolicyDecoder(facts.policy, facts.components, facts.shift, facts.segment)

    def policy(self, model: Model, x: Tensor, raw: Tensor, conditioning: Conditioning) -> Policy:
        """One evaluation at states ``x`` (B, C, *S), raw times (B,); ``model`` is this one's, or its distributed wrapper."""
        output = self.family.call(model, x, to_sigma(raw, self.facts.shift), conditioning)
        return self.decoder.policy(output, x, raw)

    def average(self) -> Student:
        """A copy to keep the moving average of the weights in; it takes no gradients."""
        if isinstance(self.model, View):
            return Student(self.family, self.model.shared.view("average"), self.facts)
        return Student(self.family, copy.deepcopy(self.model).eval().requires_grad_(False), self.facts)

    def at(self, iteration: int) -> Student:
        """The same student, saying that it was trained for ``iteration`` iterations."""
        return Student(self.family, self.model, replace(self.facts, iterations=iteration))

    def scheduler(
        self,
        *,
        shift: float | None = None,
        substeps: int | None = None,
        temperature: float | str | None = None,
        stochastic: float = 0.0,
        patch: int | None = None,
    ) -> PolicyScheduler:
        """The sampler with the settings the student was trained for, but for those that are given.

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
        )


def new_head(
    model: nn.Module, family: TeacherFamily, facts: StudentFacts, generator: torch.Generator | None = None
) -> tuple[HeadSite, PolicyHead]:
    """The head of a student of ``model`` and its site, initialised from the model's output projection."""
    site = family.head_site(model)
    sizes = HeadSizes(facts.components, family.embedding_dim(model), facts.logstd_width)
    return site, head_class(facts.policy).build(model.get_submodule(site.projection), site, sizes, generator=generator)


def widen(model: nn.Module, family: TeacherFamily, facts: StudentFacts, generator: torch.Generator | None = None) -> Student:
    """Turn ``model`` itself into a student: its output projection gives way to a policy head."""
    site, head = new_head(model, family, facts, generator)
    attach_head(model, site, head)
    return Student(family, model, facts)


def student_of(teacher: nn.Module, family: TeacherFamily, facts: StudentFacts, seed: int) -> Student:
    """A fully trained student beside a frozen teacher: a copy of it with a policy head, initialised by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The copy of a frozen teacher is frozen too, and would leave the head to learn alone.
        return widen(copy.deepcopy(teacher).requires_grad_(True), family, facts, generator)


def adapted_student(base: nn.Module, family: TeacherFamily, facts: StudentFacts, adapter: AdapterSection, seed: int) -> Student:
    """A student that shares the frozen ``base`` with its teacher and its average, initialised by ``seed``.

    It brings adapters, a policy head and its own copy of what its family trains in full. Raises UsageError for a family
    that has no place for adapters.
    """
    targets = family.adapter_targets(base)
    if not targets:
        raise UsageError(f"students of the family {family.name} are trained in full", "leave the section adapter out of the preset")
    lora = adapter_config(dict.fromkeys(targets, adapter.rank), adapter.alpha / adapter.rank, adapter.dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        site, head = new_head(base, family, facts)
        shared = SharedBase(base, site, {"student": head, "average": copy.deepcopy(head)}, family.trained_in_full, lora)
    return Student(family, shared.view("student"), facts)


def loaded_student(base: nn.Module, family: TeacherFamily, facts: StudentFacts, ranks: dict[str, int]) -> Student:
    """A student on its ``base``, with adapters of ``ranks`` at dotted paths; what it brings is on the meta device until it is loaded."""
    with torch.device("meta"):
        site, head = new_head(base, family, facts)
        shared = SharedBase(base, site, {"student": head}, family.trained_in_full, adapter_config(ranks, scale=1.0, dropout=0.0))
    return Student(family, shared.view("student"), facts)


def unloaded_student(family: TeacherFamily, config: dict, facts: StudentFacts) -> Student:
    """A student that brings all its weights, of the architecture that ``config`` states; they are on the meta device."""
    from accelerate import init_empty_weights

    # Tables that no file holds are computed; only what will be loaded stays empty.
    with init_empty_weights(include_buffers=False):
        model = family.build(config)
    with torch.device("meta"):
        return widen(model, family, facts)


def adapter_config(ranks: dict[str, int], scale: float, dropout: float) -> LoraConfig:
    """Adapters of ``ranks`` at dotted paths, whose product counts ``scale`` times; gaussian at the start, and without effect."""
    # peft takes seconds to import, and students that are trained in full do without it.
    from peft import LoraConfig

    rank = next(iter(ranks.values()))
    own = {path: other for path, other in ranks.items() if other != rank}
    return LoraConfig(
        r=rank,
        lora_alpha=scale * rank,
        rank_pattern=own,
        alpha_pattern={path: scale * other for path, other in own.items()},
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules="|".join(map(re.escape, ranks)),
    )
