"""The plan of a run, said before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...core.timegrid import to_sigma
from ...data.sources import LocalSamples, describe_data, local_samples, require_source
from ...errors import UsageError
from ...presets.expected import expected
from ...presets.families import CLASS, conditioning_of, shown_a_picture
from ...system.devices import choose_device
from ...teachers import family_of
from ...teachers.text_to_image import TextToImageFamily
from ..machine import check_machine
from ..optimizer import usable_optimizer, with_usable_optimizer
from ..parallel import DDP
from ..settings import BatchPlan, batch_plan, guided_share, network_evaluations, time_grid
from .fit import fit
from .memory import Bytes, Estimate
from .outline import Outline, disk_of, memory_of, outline_of, trained_parts
from .sharing import choose_parallel

if TYPE_CHECKING:
    from ...presets.schema import Preset


def describe(preset: Preset, output: Path, device: str, processes: int, parallel: str = DDP) -> dict:
    """The plan in words, section by section; builds the models without their weights to count what will be trained.

    ``parallel``: how ``processes`` hold the weights, as :func:`choose_parallel` takes it.

    Raises UsageError for whatever the run refuses before it loads anything, but that nothing to train on is named.
    """
    # Sections that need no network come first: they may be wrong already.
    if conditioning_of(preset.teacher.family) == CLASS:
        require_source(preset)
    batches, chosen = batch_plan(preset, processes), choose_device(device)
    check_machine(preset, chosen)
    way = choose_parallel(parallel, preset, processes, chosen)
    local = local_samples(preset.data, shown_a_picture(preset.teacher.family), preset.data_free)
    family = family_of(preset.teacher.family)
    used, why = usable_optimizer(preset.optimisation.optimizer, chosen, way.sharded)
    outline = outline_of(with_usable_optimizer(preset, chosen, way.sharded), family)
    found = _estimate(outline, batches, way.sharded)
    figures, line = fit(outline, found, batches, chosen, output, local)
    grid = time_grid(preset)
    optimisation = preset.optimisation
    sigmas = ", ".join(f"{to_sigma(raw, grid.shift):.4g}" for raw in grid.edges[:-1])
    return {
        "teacher": {
            "name": preset.name,
            "weights": f"{preset.teacher.base}, {_millions(outline.teacher)} parameters, {preset.teacher.license}",
            **({"loras": ", ".join(preset.teacher.loras)} if preset.teacher.loras else {}),
            "guidance": _guidance(preset),
        },
        "student": {
            "policy": f"{preset.policy.kind}, {preset.policy.components} components",
            "evaluations": f"{grid.nfe} (sigma {sigmas})",
            "substeps": f"{preset.policy.substeps} per unit of raw time",
            "trained": f"{_millions(outline.weights.trained)} parameters, {_trained(preset)}",
            **{part: f"{_millions(number)} parameters" for part, number in trained_parts(outline).items()},
        },
        "data": {**describe_data(preset, family, local), **_drawn(preset, local)},
        "imitation": _imitation(preset),
        "optimisation": {
            **_length(preset),
            "batch": f"{batches}, {_counted(preset)}",
            "learning rate": (
                f"{optimisation.learning_rate:g}, {optimisation.schedule} after {optimisation.warmup} iterations of"
                " warm-up"
            ),
            "precision": optimisation.precision,
            "gradient checkpointing": "yes" if optimisation.gradient_checkpointing else "no",
            "optimiser": used if why is None else f"{used}, since {why}",
            "device": str(chosen),
            **({} if processes == 1 else {"parallel": str(way)}),
        },
        "memory": _memory(outline, found),
        "disk": disk_of(outline, local),
        "machine": figures,
        "folder": str(output),
        "verdict": line,
    }


def _length(preset: Preset) -> dict[str, object]:
    """The number of iterations, or what sets it, the network evaluations that they take, and what comes of them."""
    each, optimisation = network_evaluations(preset), preset.optimisation
    about = "about " if 0 < guided_share(preset) < 1 else ""
    if optimisation.budget is not None:
        return {
            "budget": f"{optimisation.budget}, which sets iterations, batch, warm-up and a cosine after a few steps",
            "network evaluations": f"{about}{each:,} an iteration of the whole batch",
        }
    iterations = optimisation.iterations
    hoped = expected(preset, each * iterations)
    return {
        "iterations": iterations,
        "network evaluations": f"{about}{each * iterations:,} in all, {each:,} an iteration",
        **({} if hoped is None else {"expected": str(hoped)}),
    }


def _imitation(preset: Preset) -> dict[str, str]:
    imitation = preset.imitation
    return {
        "states": f"{imitation.states} per evaluation, {'data-free' if preset.data_free else 'from noised data'}",
        "window": f"{imitation.window} substeps" if imitation.window else "none",
        "trajectory mixing": (
            f"over {imitation.mixing_iterations} iterations" if imitation.mixing_iterations else "none"
        ),
        **{name: f"{getattr(imitation, name):g} times the distance to noised data" for name in imitation.distances},
    }


def _counted(preset: Preset) -> str:
    """The unit of the batch: a trajectory brings gradients of all its segments, a sample those of one."""
    if not preset.data_free:
        return "samples"
    return f"trajectories of {preset.policy.nfe} segment{'s' if preset.policy.nfe > 1 else ''}"


def _drawn(preset: Preset, local: LocalSamples | None) -> dict[str, str]:
    """How often the run draws each of the samples that are there; nothing where their number is not known."""
    if local is None or preset.optimisation.budget is not None:
        return {}
    prompts = preset.data.prompts is not None
    there, what = (len(local.texts), "prompts") if prompts else (local.pictures, "pictures")
    if shown_a_picture(preset.teacher.family):
        what = "edits"
    draws = preset.optimisation.iterations * preset.optimisation.batch_size
    if draws < there:
        return {"used": f"{draws:,} of the {there:,} {what}; --limit {draws} encodes no more than that"}
    return {"used": f"all, each {draws / max(1, there):,.1f} times"}


def _estimate(outline: Outline, batches: BatchPlan, sharded: bool) -> Estimate | UsageError:
    """The memory of a step, or what keeps it from being known."""
    try:
        return memory_of(outline, batches.device_batch, batches.processes, sharded)
    except UsageError as error:
        return error


def _memory(outline: Outline, found: Estimate | UsageError) -> dict:
    """The memory of a step by part, what stands, what passes, and both."""
    if isinstance(found, UsageError):
        return {"peak": f"unknown: {found.message}"}
    parts = found.of_full_training() if outline.preset.adapter is None else found.parts()
    if not isinstance(outline.student.family, TextToImageFamily):
        return parts
    encoders = outline.text_encoders
    return {
        **parts,
        "text encoders, before training": (
            "unknown: their configs are not there" if encoders is None else Bytes(encoders)
        ),
    }


def _trained(preset: Preset) -> str:
    adapter = preset.adapter
    if adapter is None:
        return "all"
    return f"adapters of rank {adapter.rank}, head and last norm; the base is frozen in {adapter.base_precision}"


def _guidance(preset: Preset) -> str:
    teacher = preset.teacher
    if teacher.guidance == 1:
        return "none"
    if teacher.guidance_mode == "embedded":
        return f"{teacher.guidance:g}, an input of the network"
    low, high = teacher.guidance_interval
    second = "" if teacher.guidance_2 is None else f", and {teacher.guidance_2:g} of the second network,"
    return f"{teacher.guidance:g}{second} for sigma in [{low:g}, {high:g}], {teacher.guidance_mode}"


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M"
