"""From prompts and seeds to pictures, through the stock pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.parameterisations.vp import BETAS, VariancePreserving
from ..core.tensors import to_device
from ..errors import UsageError
from ..presets.choices import BITSANDBYTES
from ..presets.families import renormalised_by
from ..students.lora_files import check_files
from ..students.loras import add_loras, cast_adapters, layers_under_magnitudes
from ..students.open import FoundStudent, LoadedStudent
from ..students.scheduler import PolicyScheduler
from ..students.shared_base import View, root
from ..students.teacher_loras import check_unquantised, fuse, teacher_loras
from ..system.group import Processes
from ..teachers.base import Network, guidance_of
from ..teachers.decoders import decode_each
from ..teachers.encoders import EMPTY, REFERENCE, collate, with_negative
from ..teachers.folders import teacher_folder
from ..teachers.long_texts import told_of
from ..teachers.stock_encoders import StockEncoders
from ..teachers.text_to_image import TextToImageFamily
from ..weights.locate import CONFIGS, ENCODERS, locate
from ..weights.quantisation import COMPUTED_IN, check_precision, store_in_fp8
from .denoise import sample_by_pipeline, seeded_generators, seeded_noise
from .request import LAYERWISE, ImageSpec, Sampler, SampleRequest, batches
from .text_specs import UsualSize, sizes_of, specs_of, usual_sizes
from .told import Place, encoded_references, place_of, places_of, seen_at

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import Preset

WIDEST_ROW = 10
TEXT_BATCH = 1
# Every size of picture compiles the blocks again, and Z-Image has several kinds of them.
RECOMPILATIONS = 64
PIPELINE = "name the folder or Hub id of a whole pipeline: --base PATH"


def text_student_sampler(
    request: SampleRequest,
    found: FoundStudent | LoadedStudent,
    family: TextToImageFamily,
    recipe: dict,
    processes: Processes,
    console: Console,
) -> Sampler:
    """The sampler of the student that was ``found``; guidance is distilled in, so batches have no second half."""
    check_unquantised(found.facts.teacher_loras, request.base_precision)
    precision = _precision(request, found.base_precision, processes.device)
    usual = usual_sizes(found, family)
    encoded = EncodedPrompts.open(request, family, *found.base, precision, False, usual, processes, console)
    student = found.load(precision=precision)
    options = {
        "shift": request.shift,
        "substeps": request.substeps,
        "temperature": request.temperature,
        "stochastic": request.stochastic,
    }
    scheduler = student.scheduler(**options, patch=family.token_positions)
    own = [student.model.role] if isinstance(student.model, View) else []
    return encoded.sampler(root(student.model), own, scheduler, {**recipe, "guidance": family.guidance})


def _stock_scheduler(family: TextToImageFamily, own: Path, shift: float) -> Any:
    """Euler steps by the config in the folder ``own``; where there is none, at ``shift``, or at the family's betas.

    Of another solver's config flow models take the shift alone.
    """
    from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    parameterisation = family.parameterisation
    kind: Any = FlowMatchEulerDiscreteScheduler if parameterisation.flow else EulerDiscreteScheduler
    if own.is_dir():
        config = kind.load_config(own)
        return kind(shift=config["flow_shift"]) if "flow_shift" in config else kind.from_pretrained(own)
    if not isinstance(parameterisation, VariancePreserving):
        return kind(shift=shift)
    first, last = BETAS[parameterisation.schedule]
    predicts = {"epsilon": "epsilon", "v": "v_prediction", "x_0": "sample"}[parameterisation.predicts]
    return kind(1000, first, last, parameterisation.schedule, prediction_type=predicts)


def text_teacher_sampler(
    request: SampleRequest,
    preset: Preset,
    family: TextToImageFamily,
    recipe: dict,
    processes: Processes,
    console: Console,
) -> Sampler:
    """The sampler of the teacher, with the scheduler of its base or Euler steps at the preset's shift."""
    section = preset.teacher
    own = "plain" if renormalised_by(section.family) is None else "renormalised"
    if section.guidance_mode not in (own, "embedded") or section.guidance_interval != (0.0, 1.0):
        console.warn(
            f"the stock pipeline's guidance is {own} and acts at all noise levels: guidance_mode and guidance_interval"
            " have no effect"
        )
    trained = "bf16" if preset.adapter is None else preset.adapter.base_precision
    # A preset may want its base quantised for training; pictures are made with the weights that were quantised.
    loras = teacher_loras(section.loras)
    check_unquantised([lora.told for lora in loras], request.base_precision)
    precision = _precision(request, "fp32" if trained == "fp32" else "bf16", processes.device)
    guided = guidance_of(section).scale != 1
    usual, place = sizes_of(preset.data, family), (section.base, section.revision)
    encoded = EncodedPrompts.open(request, family, *place, precision, guided, usual, processes, console)
    family = encoded.family
    folder = teacher_folder(family, section)
    model = family.load_base(folder, precision)
    fuse(model, family, folder, loras, console.warn)
    scheduler = _stock_scheduler(family, encoded.folder / "scheduler", preset.policy.shift)
    steps = family.fine_steps if request.steps is None else request.steps
    return encoded.sampler(model, [], scheduler, {**recipe, "steps": steps, "guidance": family.guidance})


@dataclass(frozen=True)
class EncodedPrompts:
    """What samplers of students and teachers share: image specs, their encoded prompts, and the folder of the VAE.

    ``texts``: conditioning of each prompt of this process, by its :data:`~.told.Place`, in the dtype that the network
    computes in. ``guided``: the pipeline also asks for the empty prompt. ``console``: says what is left out.
    ``references``: latents of the pictures that are edited.
    """

    request: SampleRequest
    family: TextToImageFamily
    folder: Path
    specs: tuple[ImageSpec, ...]
    texts: Mapping[Place, Mapping[str, Tensor]]
    precision: str
    guided: bool
    device: torch.device
    console: Console
    references: Mapping[ImageSpec, Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the network computes in."""
        return COMPUTED_IN[self.precision]

    @classmethod
    def open(
        cls,
        request: SampleRequest,
        family: TextToImageFamily,
        base: str,
        revision: str | None,
        precision: str,
        guided: bool,
        usual: Sequence[UsualSize],
        processes: Processes,
        console: Console,
    ) -> EncodedPrompts:
        """Check everything that can be wrong, encode the prompts and free the encoders before the network comes.

        Of ``processes`` each encodes what its own batches are told.
        """
        device = processes.device
        family = family.sized_by(locate(base, revision, CONFIGS))
        specs = specs_of(request, family, usual)
        if request.offload != "none" and device.type == "cpu":
            raise UsageError(
                f"--offload {request.offload}: the CPU is where weights are moved to",
                "leave --offload out, or choose --device cuda",
            )
        if request.loras and len(family.own_parts) > 1:
            raise UsageError(
                "--lora: the model has two networks, and a LoRA does not say of which it is", "leave --lora out"
            )
        check_files(request.loras)
        folder = locate(base, revision, ENCODERS)
        if not (folder / "vae").is_dir():
            raise UsageError(f"{base} has no VAE that shows latents: there is no folder vae in it", PIPELINE)
        prompts = dict.fromkeys([*(spec.text for spec in specs), *([EMPTY] if guided else [])])
        console.say(f"encoding {len(prompts)} prompt{'s' if len(prompts) != 1 else ''}")
        encoders = StockEncoders(family, folder, device, offload=request.offload in LAYERWISE)
        mine = processes.share(list(batches(specs, TEXT_BATCH if request.batch_size is None else request.batch_size)))
        own, dtype = [spec for part in mine for spec in part], COMPUTED_IN[precision]
        texts = {
            place: _in_dtype(encoders.encode_text([place[0]], seen_at([place]))[0], dtype)
            for place in places_of(family, own, guided)
        }
        places = places_of(family, specs, guided)
        if long := encoders.long_texts([text for text, *_ in places], seen_at(places)):
            console.warn(told_of(long, len(prompts) - guided))
        references = encoded_references(encoders, own, family, dtype)
        encoders.close()
        return cls(request, family, folder, specs, texts, precision, guided, device, console, references)

    def sampler(self, model: Network, own: Sequence[str], scheduler: Any, recipe: dict) -> Sampler:
        """The sampler of ``model`` with the adapters ``own``, through the stock pipeline around it."""
        request, family, device, steps = self.request, self.family, self.device, recipe["steps"]
        pipeline = family.pipeline(model, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        add_loras(model, own, family, request.loras, self.console.warn)
        cast_adapters(model, self.dtype)
        if self.precision == "fp8":
            # After all adapters are there, which would be stored like the layers that they are put on.
            store_in_fp8(model, family.kept_whole(model) | layers_under_magnitudes(model))
        if request.compile:
            _compile(family.parts(model).values())
        _place(pipeline, request, device)
        vae = family.load_vae(self.folder).to(device)

        @torch.no_grad()
        def draw(specs: Sequence[ImageSpec]) -> Tensor:
            generators = seeded_generators([spec.seed for spec in specs])
            noise = seeded_noise(generators, latent_shape(family, model, specs[0]))
            noise, told = to_device((noise, self.conditioning(specs)), device, family.read_on_host)
            if isinstance(scheduler, PolicyScheduler):
                scheduler.generator = generators
            latents = sample_by_pipeline(family, pipeline, noise, told, steps)
            return decode_each(family, vae, latents)

        loras = {"loras": [f"{path}:{scale:g}" for path, scale in request.loras]} if request.loras else {}
        base = {"base": request.base} if request.base is not None else {}
        precision = {"base_precision": self.precision} if request.base_precision is not None else {}
        rate = {"frame_rate": family.frame_rate} if family.frame_rate is not None else {}
        told = {**recipe, **base, **precision, **loras, **rate}
        return Sampler(draw, self.specs, told, TEXT_BATCH, _columns(self.specs), family.frame_rate)

    def conditioning(self, specs: Sequence[ImageSpec]) -> dict[str, Tensor]:
        """The conditioning of a batch, in host memory; ``negative_`` entries where the pipeline guides."""
        batch = collate([self.texts[place_of(self.family, spec, spec.text)] for spec in specs])
        if self.guided:
            empty = [self.texts[place_of(self.family, spec, EMPTY)] for spec in specs]
            batch = with_negative(batch, collate(empty))
        if self.family.shown:
            batch[REFERENCE] = torch.stack([self.references[spec] for spec in specs])
        return batch


def latent_shape(family: TextToImageFamily, model: Network, spec: ImageSpec) -> tuple[int, ...]:
    """Shape (C, *S) of the latents of a picture or a video."""
    assert spec.size is not None
    return family.latent_shape(model.config, spec.size, spec.frames)


def _precision(request: SampleRequest, usual: str, device: torch.device) -> str:
    """The precision of the base: the one asked for, or else the ``usual``; raises UsageError where it cannot be had."""
    precision = usual if request.base_precision is None else request.base_precision
    check_precision(precision, device)
    if precision in BITSANDBYTES and request.offload in LAYERWISE:
        raise UsageError(
            f"--offload {request.offload} excludes --base-precision {precision}",
            "choose --base-precision fp8 or bf16, or --offload model",
        )
    return precision


def _columns(specs: Sequence[ImageSpec]) -> int:
    """A row for each prompt where several seeds are drawn of it."""
    seeds = sum(spec.number == 0 for spec in specs)
    return seeds if 1 < seeds <= WIDEST_ROW else min(WIDEST_ROW, len(specs))


def _in_dtype(text: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in text.items()}


def _compile(networks: Iterable[Network]) -> None:
    """Compile the blocks that each of ``networks`` repeats."""
    settings: Any = torch._dynamo.config
    settings.recompile_limit = RECOMPILATIONS
    for network in networks:
        network.compile_repeated_blocks()


def _place(pipeline: Any, request: SampleRequest, device: torch.device) -> None:
    """Move the network to ``device``, layer by layer if asked."""
    if request.offload == "none":
        pipeline.to(device)
    elif request.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif request.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
