"""One pi-ID step of a FLUX.1-sized student, and sampling from it: seconds, peak
memory, and the estimate of `--dry-run`.

    python tests/benchmarks/flux_step.py [--device cpu|cuda] [--small]
    [--precisions bf16,nf4] [--rounds N] [--json FILE]

The preset flux-dev (1024², LoRA of rank 256, 4 evaluations with 4 states each, data-free) at batch 1 on random
weights, which are written to a temporary folder (24 GB) and opened as `piflow distill` opens them. Parts are timed
alone: the student's forward and backward passes, the teacher's answers, the policy (rollouts, losses and their
gradients without any network), the optimiser (clipping, step, average). "one at a time": the whole step with one
state in a query and the reference rollout.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from common import elapsed, machine, medians, write_json

from piflow_cli.console import Console, format_table
from piflow_cli.core.draws import draw_segments
from piflow_cli.core.ema import update_average
from piflow_cli.core.imitation import data_free_losses
from piflow_cli.core.tensors import to_device
from piflow_cli.core.timegrid import to_sigma
from piflow_cli.data.collect import EncodedCache
from piflow_cli.presets.resolve import load, resolve
from piflow_cli.presets.schema import Preset
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import repeat, teacher_velocity
from piflow_cli.teachers.folders import config_folder
from piflow_cli.training.dry_run.outline import memory_of, outline_of
from piflow_cli.training.loop import Session, train_step
from piflow_cli.training.opening import open_session

CONFIG = config_folder(load("flux-dev").teacher) / "transformer" / "config.json"
SMALL = {
    "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16,
    "axes_dims_rope": [4, 4, 8],
    "in_channels": 16, "joint_attention_dim": 32, "pooled_projection_dim": 24,
}  # fmt: skip
SMALL_SETTINGS = {
    "data.resolution": 32, "adapter.rank": 4, "policy.logstd_width": 16, "policy.nfe": 2, "policy.substeps": 8,
    "imitation.states": 2,
    "imitation.window": 1,
}  # fmt: skip
COLUMNS = ("precision", "work", "seconds", "share")


def write_teacher(folder: Path, small: bool, device: torch.device) -> None:
    """A transformer with random weights in bfloat16, as a pipeline's folder has it."""
    config = json.loads(CONFIG.read_text()) | (SMALL if small else {})
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = family_of("flux").build(config)
        finally:
            torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "transformer", max_shard_size="5GB")


def preset_for(folder: Path, precision: str, small: bool) -> Preset:
    """The preset flux-dev on that teacher, one sample a step, past its trajectory mixing."""
    (folder / "prompts.txt").write_text("a\n")
    flags = {
        "teacher.base": str(folder),
        "data.prompts": str(folder / "prompts.txt"),
        "data.cache": str(folder / "cache"),
        "optimisation.batch_size": 1,
        "optimisation.warmup": 0,
        "imitation.mixing_iterations": 0,
        "adapter.base_precision": precision,
        **(SMALL_SETTINGS if small else {}),
    }
    return resolve("flux-dev", None, [], flags)


def fill_cache(preset: Preset) -> None:
    """Random embeddings where the cache would have those of the prompts, so that no encoder is asked."""
    family = family_of("flux")
    cache = EncodedCache(preset.data, family.encoders(preset.teacher))
    shapes = family.longest_conditioning(family.outline(Path(preset.teacher.base)))
    with cache.texts.writer() as writer:
        for text in ("a", ""):
            entry = {name: torch.randn(value.shape[1:]).to(value.dtype) for name, value in shapes.items()}
            writer.add(cache.text_key(text), entry, text)


def works(session: Session) -> dict[str, Callable[[], object]]:
    """The parts of a step, each on its own."""
    device, config, student = session.accelerator.device, session.config, session.student
    batch = session.data.batch(0, 0, 1)
    conditioning = to_device(batch.conditioning, device, session.student.family.read_on_host)
    x, one = torch.randn(batch.shape, device=device), torch.ones(1, dtype=torch.float64, device=device)
    grid, states = config.grid, config.states
    with torch.no_grad(), session.accelerator.autocast():
        output = student.family.call(student.model, x, to_sigma(one, grid.shift), conditioning)

    def networks() -> None:
        for _ in range(grid.nfe):
            student.family.call(session.model, x, one, conditioning).float().square().mean().backward()
        student.model.base.zero_grad(set_to_none=True)

    def teacher() -> None:
        with session.accelerator.autocast():
            for _ in range(grid.nfe):
                many = repeat({"x": x}, states)["x"]
                teacher_velocity(
                    student.family, session.teacher, session.guidance, many, one.repeat(states), conditioning
                )

    def policy() -> None:
        def imagined(state, raw):
            return student.decoder.policy(output.detach().requires_grad_(), state, raw)

        draws = to_device(draw_segments(len(x), config, torch.Generator().manual_seed(0)), x.device)
        for loss in data_free_losses(imagined, lambda state, sigma: state, x, config, draws=draws):
            loss.backward()

    def optimiser() -> None:
        for value in student.model.parameters():
            value.grad = torch.zeros_like(value)
        session.accelerator.clip_grad_norm_(student.model.parameters(), 1.0)
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)
        update_average(session.average.model.parameters(), student.model.parameters(), 0.5)

    return {"student": networks, "teacher": teacher, "policy": policy, "optimiser": optimiser}


def one_at_a_time(session: Session) -> None:
    """The step as it would be without shared queries and fused rollouts."""
    config, session.config = session.config, replace(session.config, states_per_query=1)
    os.environ["PIFLOW_KERNELS"] = "off"
    try:
        train_step(session)
    finally:
        session.config = config
        del os.environ["PIFLOW_KERNELS"]


def sampling(session: Session, device: torch.device, rounds: int) -> dict[str, float]:
    """Milliseconds of an image's latents, and of as many bare network calls."""
    batch, student = session.data.batch(0, 0, 1), session.student
    conditioning, x = (
        to_device(batch.conditioning, device, session.student.family.read_on_host),
        torch.randn(batch.shape, device=device),
    )
    nfe = student.facts.nfe

    @torch.no_grad()
    def bare() -> None:
        for _ in range(nfe):
            student.family.call(student.model, x, torch.ones(1, device=device), conditioning)

    with session.accelerator.autocast():
        return medians(
            {"sampling": lambda: sample_student(student, x, conditioning), "bare calls": bare}, device, rounds
        )


def measure(preset: Preset, device: torch.device, rounds: int) -> dict:
    """Times, peak and estimate of one precision of the base."""
    session = open_session(preset, Path(preset.teacher.base) / "run", str(device), Console(quiet=True))
    train_step(session)
    peak = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        elapsed(lambda: train_step(session), device)
        peak = torch.cuda.max_memory_allocated(device)
    times = medians(
        {"step": lambda: train_step(session), "one at a time": lambda: one_at_a_time(session), **works(session)},
        device,
        rounds,
        240,
    )
    samples = sampling(session, device, rounds)
    estimate = memory_of(outline_of(preset, family_of("flux")), 1)
    step = times["step"]
    return {
        "precision": preset.adapter.base_precision,
        "seconds": {name: value / 1000 for name, value in {**times, **samples}.items()},
        "share": {name: times[name] / step for name in ("student", "teacher", "policy", "optimiser")},
        "one_at_a_time_ratio": times["one at a time"] / step,
        "sampling_overhead": samples["sampling"] / samples["bare calls"] - 1,
        "peak_bytes": peak,
        "estimate_bytes": dict(estimate.parts()),
        "estimate_ratio": None if peak is None else estimate.peak / peak,
    }


def report(row: dict) -> None:
    lines = [
        {"precision": row["precision"], "work": name, "seconds": value, "share": row["share"].get(name)}
        for name, value in row["seconds"].items()
    ]
    print(format_table(lines, COLUMNS))
    peak = (
        "not measured"
        if row["peak_bytes"] is None
        else f"{row['peak_bytes'] / 1e9:.2f} GB, estimate / peak {row['estimate_ratio']:.3f}"
    )
    print(
        f"one at a time {row['one_at_a_time_ratio']:.2f} x   sampling {row['sampling_overhead']:+.2%}   peak {peak}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a model of two blocks: does it run at all")
    parser.add_argument(
        "--precisions", default="bf16,nf4", help="of the base, with commas between; int8 and nf4 need CUDA"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns to take the median of")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(arguments)
    device, rows = torch.device(options.device), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_teacher(folder, options.small, device)
        for precision in options.precisions.split(","):
            preset = preset_for(folder, precision, options.small)
            fill_cache(preset)
            rows.append(measure(preset, device, options.rounds))
            report(rows[-1])
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if options.json is not None:
        write_json(options.json, {"benchmark": "flux_step", **machine(device), "results": rows})


if __name__ == "__main__":
    main()
