"""DX students for PiflowScheduler of diffusers, which knows their policy."""

from __future__ import annotations

import importlib.metadata
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers import AutoModel
from torch import Tensor

from ...core.policies.kinds import policy_kind
from ...core.timegrid import TimeGrid
from ...errors import UsageError
from ...students.adapter_configs import given_channels
from ...students.facts import StudentFacts
from ...students.shared_base import root
from ...students.student import Student
from ...teachers import family_of
from ...teachers.base import Network
from ...teachers.text_to_image import TextToImageFamily
from ..halves import TRANSFORMER
from ..network import (
    SCHEDULER_FOLDER,
    check_whole,
    dtype_of,
    plain_config,
    refuse_two_networks,
    write_json,
    write_network,
)
from ..portable import portable
from ..standalone.code import transformer_class
from ..verify import ComparedFormat, Inputs, SampleFunction, check_weights, computing_in, difference, reading_back
from ..weights import Weights, merged_weights, save_weights

if TYPE_CHECKING:
    from ...console import Console
    from ..request import ExportRequest

SCHEDULER = "PiflowScheduler"
OLDEST_DIFFUSERS = "0.42"
SELF_CONTAINED = "choose --format pipeline, which brings its own scheduler"


class PiflowSchedulerFormat(ComparedFormat):
    """``transformer/``, if possible of a class of diffusers, and ``scheduler/`` for PiflowScheduler.

    That scheduler takes states and outputs with channels last, the outputs reshaped to (..., N, C), and a policy spans
    one step. Packed tokens are such already; others have their channels moved last.
    """

    name = "piflow-scheduler"
    # Whether the class is diffusers' own: known when it is written.
    stock = True

    def check(self, facts: StudentFacts, request: ExportRequest) -> None:
        refuse_two_networks(facts, request)
        check_whole(facts, request)
        if not request.with_base or request.quantise is not None:
            raise UsageError(f"--no-base and --quantise are not for the format {self.name}", "leave them out")
        kind = policy_kind(facts.policy)
        if kind.published.scheduler != SCHEDULER:
            raise UsageError(
                f"{SCHEDULER} reads x_0 at even times (a DX policy), and this student predicts {kind.words.predicts}",
                SELF_CONTAINED,
            )
        if facts.components < 2:
            raise UsageError(
                f"PiflowScheduler wants two points or more, and this student predicts {facts.components}",
                SELF_CONTAINED,
            )
        if not family_of(facts.family).parameterisation.flow:
            raise UsageError(
                f"{SCHEDULER} is for flow models, and those of the family {facts.family} are none", SELF_CONTAINED
            )
        step = TimeGrid(facts.nfe, facts.final_step_scale, facts.shift).segment
        if not math.isclose(facts.segment, step, rel_tol=1e-4):
            raise UsageError(
                f"a policy of PiflowScheduler spans one step, and this student's spans {facts.segment:g} where"
                f" {facts.nfe} steps are {step:g} long",
                SELF_CONTAINED,
            )
        if not hasattr(diffusers, SCHEDULER):
            installed = importlib.metadata.version("diffusers")
            raise UsageError(
                f"diffusers {installed} has no PiflowScheduler", f'pip install -U "diffusers>={OLDEST_DIFFUSERS}"'
            )

    def write(self, student: Student, folder: Path, request: ExportRequest, console: Console) -> dict[str, object]:
        self.dtype = dtype = dtype_of(request, student)
        facts = student.facts
        scheduler: Any = diffusers.PiflowScheduler(
            shift=facts.shift,
            n_grid=facts.components,
            final_step_size_scale=facts.final_step_scale,
            num_policy_substeps=facts.substeps,
        )
        scheduler.save_config(folder / SCHEDULER_FOLDER)
        self.stock = fits_its_own_class(student)
        if self.stock:
            _write_stock(student, folder / TRANSFORMER, dtype)
        else:
            write_network(student, folder / TRANSFORMER, dtype)
        return {
            "dtype": str(dtype).removeprefix("torch."),
            "class": _class_name(student) if self.stock else transformer_class(type(root(student.model))),
        }

    def verify(self, student: Student, folder: Path, request: ExportRequest) -> float:
        place = str(folder / TRANSFORMER)
        with reading_back():
            if self.stock:
                model = type(root(student.model)).from_pretrained(place, torch_dtype=self.dtype)
            else:
                model = AutoModel.from_pretrained(place, trust_remote_code=True, torch_dtype=self.dtype)
            scheduler = diffusers.PiflowScheduler.from_pretrained(folder / SCHEDULER_FOLDER)
            model = model.to(next(root(student.model).parameters()).device)
            check_weights(_stock_weights(student) if self.stock else merged_weights(student), model)
            return difference(student, self.dtype, by_piflow_scheduler(student, model, scheduler))

    def snippet(self, facts: StudentFacts, place: str, sizes: str = "") -> str:
        trusted = "" if self.stock else ", trust_remote_code=True"
        return f"""from diffusers import AutoModel, PiflowScheduler

transformer = AutoModel.from_pretrained({place!r}, subfolder="{TRANSFORMER}"{trusted})
scheduler = PiflowScheduler.from_pretrained({place!r}, subfolder="{SCHEDULER_FOLDER}")
scheduler.set_timesteps({facts.nfe})  # no other number: a policy spans one step
for timestep in scheduler.timesteps:
    output = ...  # of the transformer at `latents`; channels last, as `latents` are
    latents = scheduler.step(output, timestep, latents).prev_sample
"""


def by_piflow_scheduler(student: Student, model: Network, scheduler: Any) -> SampleFunction:
    """Samples of ``model`` under PiflowScheduler, with the number of evaluations that the student was trained for."""
    family = student.family

    @torch.no_grad()
    def sample(inputs: Inputs) -> Tensor:
        x = inputs.x
        scheduler.set_timesteps(student.facts.nfe, device=x.device)
        for timestep in scheduler.timesteps:
            sigma = (timestep / scheduler.config.num_train_timesteps).expand(len(x))
            with computing_in(model.dtype, x.device):
                output = family.call(model, x, sigma, inputs.conditioning)
            x = scheduler.step(output.movedim(1, -1), timestep, x.movedim(1, -1)).prev_sample.movedim(-1, 1)
        return x

    return sample


def fits_its_own_class(student: Student) -> bool:
    """Whether the base's own class, with more output channels, has just the weights of the widened model."""
    if not isinstance(student.family, TextToImageFamily) or student.family.head_site(root(student.model)).unpatchify:
        return False
    with torch.device("meta"):
        wide = student.family.build(_wide_config(student))
    shapes = {name: value.shape for name, value in wide.state_dict().items()}
    return shapes == {name: weight.value.shape for name, weight in _stock_weights(student).items()}


def _wide_config(student: Student) -> dict[str, Any]:
    given = given_channels(root(student.model), student.family)
    return plain_config(student) | {student.family.output_field: student.facts.components * given}


def _stock_weights(student: Student) -> Weights:
    return {name.replace(".grid.", "."): weight for name, weight in merged_weights(student).items()}


def _write_stock(student: Student, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir()
    write_json(folder / "config.json", _wide_config(student))
    save_weights(_stock_weights(student), folder, lambda name: dtype, portable(student.facts).to_metadata())


def _class_name(student: Student) -> str:
    return type(root(student.model)).__name__
