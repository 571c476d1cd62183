"""The cost model of docs/pages/cost.md against measured steps, and its memory by the plan's estimate.

    python tests/benchmarks/cost.py [--rounds N] [--small] [--json FILE]

A step's time is taken to follow its network evaluations (``network_evaluations``: batch x segments x (3, or 4 with
checkpointing, + states x 1, or 2 under guidance)) and the tokens of a sample. Measured: seconds of the processor, on
one thread, of training steps of digits and of a FLUX of 6 blocks of width 128 (random weights, float32, no GPU), the
median over rounds in which every case has its turn. ``measured`` and ``predicted`` are over the first case of each
teacher, and ``over`` is the one over the other. Memory: GB at the peak by `--dry-run`, of FLUX.1 [dev] in full size,
for one GPU of the preset flux-dev but for what is named.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import flux_step
import torch
from common import machine, write_json

from piflow_cli.console import Console, format_table
from piflow_cli.presets.resolve import resolve
from piflow_cli.presets.schema import Preset
from piflow_cli.teachers import family_of
from piflow_cli.training.dry_run.outline import memory_of, outline_of
from piflow_cli.training.loop import Session, train_step
from piflow_cli.training.opening import open_session
from piflow_cli.training.settings import network_evaluations

BATCH, STATES, NFE = "optimisation.batch_size", "imitation.states", "policy.nfe"
FREE, CHECKPOINTING = "imitation.data_free", "optimisation.gradient_checkpointing"
GUIDANCE, RANK = "teacher.guidance", "adapter.rank"
DIGITS = {
    "batch 32": {},
    "batch 64": {BATCH: 64},
    "batch 128": {BATCH: 128},
    "1 state": {STATES: 1},
    "4 states": {STATES: 4},
    "8 states": {STATES: 8},
    "guidance": {GUIDANCE: 2.0},
    "2 evaluations, from pictures": {NFE: 2},
    "2 evaluations, from noise": {NFE: 2, FREE: True},
    "4 evaluations, from noise": {NFE: 4, FREE: True},
    "checkpointing": {CHECKPOINTING: True},
}
FLUX = {
    "rank 16": {},
    "rank 4": {RANK: 4},
    "rank 64": {RANK: 64},
    "1 state": {STATES: 1},
    "4 states": {STATES: 4},
    "4 evaluations": {NFE: 4},
    "checkpointing": {CHECKPOINTING: True},
    "384 pixels": {"data.resolution": 384},
}
FLUX_CONFIG = {
    "num_layers": 2, "num_single_layers": 4, "num_attention_heads": 4, "attention_head_dim": 32,
    "axes_dims_rope": [8, 12, 12],
    "in_channels": 64, "joint_attention_dim": 64, "pooled_projection_dim": 32,
}  # fmt: skip
MEMORY = {
    "as it is": {},
    "rank 64": {RANK: 64},
    "rank 128": {RANK: 128},
    "512 pixels": {"data.resolution": 512},
    "2 states": {STATES: 2},
    "1 state a query": {"imitation.states_per_query": 1},
    "2 evaluations": {NFE: 2},
    "device batch 2": {"optimisation.device_batch_size": 2},
    "base in nf4": {"adapter.base_precision": "nf4"},
}
COLUMNS = ("teacher", "case", "evaluations", "seconds", "measured", "predicted", "over")


def digits_session(settings: dict, folder: Path) -> Session:
    preset = resolve("digits", None, [], {BATCH: 32, "imitation.window": 0} | settings)
    return open_session(preset, folder, "cpu", Console(quiet=True))


def flux_preset(settings: dict, folder: Path) -> Preset:
    """The preset flux-dev on a small teacher in ``folder``: a trajectory of 2 segments, 2 states, rank 16."""
    (folder / "prompts.txt").write_text("a\n")
    base = {
        "teacher.base": str(folder),
        "data.prompts": str(folder / "prompts.txt"),
        "data.cache": str(folder / "cache"),
        "data.resolution": 256,
        BATCH: 1,
        STATES: 2,
        NFE: 2,
        RANK: 16,
        "adapter.base_precision": "fp32",
        "optimisation.precision": "fp32",
        "policy.logstd_width": 32,
        "policy.substeps": 32,
        "imitation.window": 1,
        "imitation.mixing_iterations": 0,
        CHECKPOINTING: False,
    }
    return resolve("flux-dev", None, [], base | settings)


def flux_session(settings: dict, folder: Path) -> Session:
    if not (folder / "transformer").exists():
        flux_step.SMALL.update(FLUX_CONFIG)
        flux_step.write_teacher(folder, True, torch.device("cpu"))
    preset = flux_preset(settings, folder)
    flux_step.fill_cache(preset)
    return open_session(preset, folder / "run", "cpu", Console(quiet=True))


def processor_seconds(sessions: Iterable[Session], rounds: int) -> list[float]:
    """Median seconds of the processor of a step of each; every round takes each of them once."""
    sessions = list(sessions)
    found: list[list[float]] = [[] for _ in sessions]
    for round_ in range(rounds + 1):
        for session, times in zip(sessions, found):
            began = time.process_time()
            train_step(session)
            if round_:
                times.append(time.process_time() - began)
    return [statistics.median(times) for times in found]


def tokens(preset: Preset) -> int:
    """Tokens of a sample of FLUX, those of the text with them; of others, whose size stays, 1."""
    side = preset.data.resolution
    return 1 if side is None else (side // 16) ** 2 + 512


def rows(teacher: str, cases: dict[str, dict], sessions: list[Session], rounds: int) -> list[dict]:
    times = processor_seconds(sessions, rounds)
    counts = [network_evaluations(session.preset) for session in sessions]
    works = [count * tokens(session.preset) for count, session in zip(counts, sessions)]
    return [
        {
            "teacher": teacher,
            "case": case,
            "evaluations": count,
            "seconds": round(seconds, 4),
            "measured": round(seconds / times[0], 3),
            "predicted": round(work / works[0], 3),
            "over": round(seconds / times[0] / (work / works[0]), 3),
        }
        for case, seconds, count, work in zip(cases, times, counts, works)
    ]


def memory_rows(cases: dict[str, dict]) -> list[dict]:
    """GB at the peak of a step of FLUX.1 in full size, by the estimate of the plan."""
    found = []
    for case, settings in cases.items():
        preset = resolve(
            "flux-dev", None, [], {"teacher.base": str(flux_step.CONFIG), "data.prompts": "prompts.txt"} | settings
        )
        device = preset.optimisation.device_batch_size
        assert device is not None, "the preset names it"
        parts = memory_of(outline_of(preset, family_of("flux")), device).parts()
        found.append({"case": case, **{name: round(value / 1e9, 2) for name, value in parts.items()}})
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="two cases of each, to see that it runs; no memory")
    options = parser.parse_args(arguments)
    few = slice(2) if options.small else slice(None)
    digits, flux = (dict(list(cases.items())[few]) for cases in (DIGITS, FLUX))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            found = rows("digits", digits, [digits_session(one, folder) for one in digits.values()], options.rounds)
            found += rows("FLUX, small", flux, [flux_session(one, folder) for one in flux.values()], options.rounds)
        print(format_table(found, COLUMNS))
        memory = [] if options.small else memory_rows(MEMORY)
        if options.json is not None:
            write_json(options.json, {**machine(torch.device("cpu")), "time": found, "memory": memory})
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
