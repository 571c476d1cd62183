"""The tables of docs/pages/results.md, gpu.md and cost.md, made from the files under tests/benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "benchmarks" / "results"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what Markdown would read in cells is escaped."""
    cells = [
        header,
        ["---"] * len(header),
        *([cell.replace("|", "\\|").replace("<", "\\<") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def digits_table() -> str:
    """Distances of the digits students: three files, of 200 iterations, of 600, and of ten minutes."""
    longer = _rows("digits-cpu-600-iterations.json", ", 600 iterations")
    longer += _rows("digits-ten-minutes-cpu.json", ", best, ten minutes")
    rows = _rows("digits-cpu.json", "") + [row for row in longer if row[0].startswith("student")]
    return table(
        ["model", "evaluations", "to the data", "to the teacher's 128 steps", "squared distance, same noise"], rows
    )


def steps_table() -> str:
    """Distances to the data of students at evaluations that they were, and were not, trained for."""
    rows = [row for row in _json("digits-steps-cpu.json")["rows"] if row["trained_for"] is not None]
    counts = sorted({row["evaluations"] for row in rows})
    found = {(row["model"], row["trained_for"], row["evaluations"]): f"{row['to_data']:.2f}" for row in rows}
    students = dict.fromkeys((model, trained) for model, trained, _ in found)
    return table(
        ["model", *(f"at {count}" for count in counts)],
        [[f"{model}, trained for {trained}", *(found[model, trained, count] for count in counts)]
         for model, trained in students],
    )  # fmt: skip


def emoji_table() -> str:
    """Emoji: the data, the teacher at its steps, and students; spreads over seeds where there are several."""
    columns = {
        "to_data": "to the data", "pixels": "pixels, to the data", "to_teacher": "to the teacher's 50 steps",
        "squared_error": "squared error, same noise", "squeezenet": "SqueezeNet distance", "diversity": "diversity",
    }  # fmt: skip
    rows = [
        [
            _emoji_name(row),
            "" if row["evaluations"] is None else str(row["evaluations"]),
            *(_spread(row, figure) for figure in columns),
        ]
        for row in _json("emoji-cpu.json")["rows"]
    ]
    return table(["model", "evaluations", *columns.values()], rows)


def _emoji_name(row: dict[str, Any]) -> str:
    """Students are named like gm-4 or gm-4+optimisation.iterations=320 in the file."""
    if row["model"] in ("teacher", "pictures"):
        return {"teacher": "teacher, Euler", "pictures": "pictures of the prompts asked, to the others"}[row["model"]]
    student, *changes = row["model"].split("+")
    settings = [change.rpartition(".")[2].replace("=", " = ").replace("_", " ") for change in changes]
    seeds = [f"{row['seeds']} seeds"] if row["seeds"] > 1 else []
    return ", ".join(["student", student.rsplit("-", 1)[0], *settings, *seeds])


def _spread(row: dict[str, Any], figure: str) -> str:
    if figure not in row:
        return ""
    more = f" ± {row[f'{figure}_sd']:.2g}" if f"{figure}_sd" in row else ""
    return f"{row[figure]:.3g}{more}"


def _json(file: str) -> dict[str, Any]:
    return json.loads((RESULTS / file).read_text())


def _rows(file: str, more: str) -> list[list[str]]:
    return [
        [
            row["model"] + _trained(row) + more,
            str(row["evaluations"]),
            *(f"{row[key]:.2f}" for key in ("to_data", "to_teacher")),
            f"{row['squared_distance']:.3f}",
        ]
        for row in json.loads((RESULTS / file).read_text())["rows"]
    ]


def _trained(row: dict[str, Any]) -> str:
    """The evaluations that a student of the table was trained for: those at which it is sampled; and a seed but 0."""
    if not row["model"].startswith("student"):
        return ""
    seed = f", seed {row['seed']}" if row.get("seed") else ""
    return f", trained for {row['evaluations']}{seed}"


def rollouts_table() -> str:
    """Fused rollouts against the plain loop: how many times faster, and the errors of both against float64."""
    modes = {"forward": "rollout", "window forward and backward": "micro-window, forward and backward"}
    rows = [
        [
            row["case"],
            str(row["parts"]),
            str(row["substeps"]),
            modes[row["mode"]],
            f"{row['ratio']:.1f} times",
            f"{row['reference_error']:.1e}",
            f"{row['fused_error']:.1e}",
        ]
        for file in ("rollout-flux-cpu.json", "rollout-imagenet-cpu.json")
        for row in json.loads((RESULTS / file).read_text())["results"]
        if row["mode"] in modes
    ]
    header = ["shape", "parts", "substeps", "what", "faster", "error of the loop", "error of the fused path"]
    return table(header, rows)


def gpu_rollouts_table() -> str:
    """The same on an H200, in milliseconds."""
    modes = {
        "forward": "rollout",
        "forward with 4 snapshots": "rollout of 4 legs",
        "window forward and backward": "micro-window, forward and backward",
    }
    rows = [
        [
            row["case"],
            str(row["parts"]),
            str(row["substeps"]),
            modes[row["mode"]],
            f"{row['reference_ms']:.1f} ms",
            f"{row['fused_ms']:.2f} ms",
            f"{row['ratio']:.1f} times",
            f"{row['fused_error']:.1e}",
        ]
        for row in _on_gpu("rollout")
    ]
    return table(["shape", "parts", "substeps", "what", "loop", "fused", "faster", "error"], rows)


def gpu_overhead_table() -> str:
    """What a policy costs beside its network on an H200."""
    rows = [
        [row["case"], f"{row['network_ms']:.1f} ms", f"{row['policy_ms']:.2f} ms", f"{row['share']:.1%}"]
        for row in _on_gpu("overhead")
    ]
    return table(["network", "an evaluation", "the policy", "share"], rows)


def gpu_steps_table() -> str:
    """A step of training and a sampling of each family at full width and one block of each kind on an H200."""
    rows = []
    for name, part in _hour()["parts"].items():
        if name.startswith("step of ") and "result" in part:
            (row,) = part["result"]["results"]
            counted = [row[key]["launches"] for key in ("kernels", "sampling_kernels")]
            waits = [sum(row[key].values()) for key in ("waits", "sampling_waits")]
            peak = [f"{row['peak_bytes'] / 1e9:.2f} GB", f"{row['estimate_over_peak']:.2f}"]
            rows.append(
                [row["preset"], *map(str, counted), *map(str, waits), *peak, f"{row['first_step_seconds']:.0f} s"]
            )
    header = ["preset", "launches a step", "a sampling", "waits a step", "a sampling", "peak", "estimate / peak"]
    return table([*header, "first step"], rows)


def _hour() -> dict[str, Any]:
    return json.loads((RESULTS / "first-hour-h200.json").read_text())


def _on_gpu(part: str) -> list[dict[str, Any]]:
    return _hour()["parts"][part]["result"]["results"]


def step_table() -> str:
    """What an iteration on digits costs beside its networks."""
    rows = json.loads((RESULTS / "step-cpu.json").read_text())["rows"]
    return table(
        ["work", "milliseconds", "ratio"],
        [[row["work"], f"{row['milliseconds']:.0f}", f"{row['ratio']:.2f}"] for row in rows],
    )


def kernels_table() -> str:
    """What a GM kernel issues a substep on Hopper with bf16 parameters, as it was and as it is."""
    found = json.loads((RESULTS / "kernel-code.json").read_text())
    rows = [
        [
            row["shape"],
            row["kernel"],
            when,
            str(row["threads_a_position"] if when == "0.2.0" else prod(row["lanes"])),
            str(row["registers"]),
            str(row["spilled"]),
            *(" + ".join(str(loop[key]) for loop in row["loops"]) for key in ("instructions", "shuffles", "barriers")),
        ]
        for pair in zip(*(_hopper(found[part]) for part in ("before", "results")), strict=True)
        for when, row in zip(("0.2.0", "now"), pair, strict=True)
    ]
    counted = ["registers", "bytes spilled", "instructions", "shuffles", "barriers"]
    return table(["shape", "kernel", "version", "threads a position", *counted], rows)


def _hopper(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["capability"] == 90 and row["dtype"] == "bf16"]


def roofline_table() -> str:
    """What a launch is expected to take, from its instructions and bytes."""
    rows = [
        [
            row["work"],
            row["kernel"],
            row["gpu"],
            str(row["substeps"]),
            f"{row['bytes'] / 1e6:,.0f} MB",
            f"{row['multiply_adds'] / 1e9:,.2f} G",
            row["bound"],
            f"{row['least_microseconds']:,.0f} to {row['most_microseconds']:,.0f} µs",
        ]
        for row in json.loads((RESULTS / "kernel-code.json").read_text())["roofline"]
    ]
    return table(["launch", "kernel", "GPU", "substeps", "moved", "multiply-adds", "bound by", "expected"], rows)


TABLES = {
    "digits": digits_table,
    "digits at other steps": steps_table,
    "emoji": emoji_table,
    "rollouts": rollouts_table,
    "rollouts on a GPU": gpu_rollouts_table,
    "overhead on a GPU": gpu_overhead_table,
    "kernels": kernels_table,
    "roofline": roofline_table,
    "step": step_table,
}


def cost_time_table() -> str:
    """Steps of training beside what the number of their network evaluations says."""
    rows = [
        [
            row["teacher"],
            row["case"],
            str(row["evaluations"]),
            *(f"{row[key]:.2f}" for key in ("predicted", "measured")),
        ]
        for row in _costs()["time"]
    ]
    return table(["teacher", "case", "evaluations", "formula", "measured"], rows)


def cost_memory_table() -> str:
    """Memory of a step of FLUX.1 by the plan."""
    parts = ["base", "adapters", "activations with checkpointing", "teacher query", "peak"]
    rows = [[row["case"], *(f"{row[part]:.1f}" for part in parts)] for row in _costs()["memory"]]
    return table(["case", "base", "trained", "activations", "query", "peak"], rows)


def _costs() -> dict[str, Any]:
    return json.loads((RESULTS / "cost-cpu.json").read_text())


GPU_TABLES = {"steps on a GPU": gpu_steps_table}
COST_TABLES = {"cost-time": cost_time_table, "cost-memory": cost_memory_table}


def filled(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """``page`` with every table between <!-- table: NAME --> and <!-- end --> made anew."""
    for name, make in tables.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(start)
        assert found and end in rest, f"the page has no place for the table {name}"
        page = before + start + "\n" + make() + "\n\n" + end + rest.partition(end)[2]
    return page


def results(page: str) -> str:
    """results.md with its tables."""
    return filled(page, TABLES)


def on_gpu(page: str) -> str:
    """gpu.md with its tables."""
    return filled(page, GPU_TABLES)


def costs(page: str) -> str:
    """cost.md with its tables."""
    return filled(page, COST_TABLES)
