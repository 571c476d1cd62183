"""The commands on a device, as people type them: digits to its end, and a tiny FLUX in every way to save memory.

    python tests/gpu/commands.py [--device cuda|cpu] [--small] [--json FILE]

Each row is a command: its exit code, its seconds and what it said if it failed. What must agree is compared: losses on
the device with those on the CPU, weights that move with weights that stay, pictures of one noise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import places
import torch

places.share()
from common import machine, write_json  # noqa: E402

AT_ONCE = 6  # commands that run beside each other
LIMIT = 200  # seconds of a command
SHOWN = 1500  # characters of what a command that failed has said
# Students of one seed on two devices differ by rounding, which training makes larger.
SAME_LOSSES, SAME_PICTURES = 0.02, 3.0


@dataclass
class Bench:
    """A folder in which commands run on one device, and their rows."""

    folder: Path
    device: str
    small: bool
    rows: list[dict] = field(default_factory=list)

    def run(self, name: str, *words: str, device: str | None = None) -> Path:
        """Run ``piflow WORDS --device DEVICE --output NAME``; the folder or file that it was to write."""
        output = self.folder / name
        told = [*words, "--device", device or self.device, "--output", str(output)]
        begun = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "piflow_cli", *told],
                cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT,
            )  # fmt: skip
            code, said = done.returncode, done.stderr[-SHOWN:]
        except subprocess.TimeoutExpired:
            code, said = 124, f"not done after {LIMIT} seconds"
        row = {"command": name, "words": " ".join(words), "exit_code": code, "within": code == 0}
        row["seconds"] = round(time.monotonic() - begun, 1)
        self.rows.append(row if code == 0 else row | {"said": said})
        return output

    def compare(self, what: str, found: float | None, allowed: float) -> None:
        """Write down a difference; one that could not be measured is not within."""
        within = found is not None and found <= allowed
        self.rows.append({"compared": what, "difference": found, "allowed": allowed, "within": within})

    def together(self, calls: Sequence[tuple[str, ...]]) -> None:
        """Run commands beside each other: their seconds are no measure then."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda call: self.run(*call), calls))


def losses(folder: Path) -> list[float]:
    """The losses of a run, as its metrics have them."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def furthest(one: Path, other: Path) -> float | None:
    """The largest relative difference of two runs' losses; None where a run has none."""
    try:
        first, second = losses(one), losses(other)
    except OSError:
        return None
    if not first or len(first) != len(second):
        return None
    return max(abs(a - b) / abs(a) for a, b in zip(first, second))


def apart(one: Path, other: Path) -> float | None:
    """The mean absolute difference of two folders' pictures, in steps of 8 bits; None where a picture is missing."""
    import numpy as np
    from PIL import Image

    pairs = [(path, other / path.name) for path in sorted(one.glob("*.png")) if "grid" not in path.name]
    if not pairs or not all(path.exists() for pair in pairs for path in pair):
        return None
    arrays = [[np.asarray(Image.open(path), dtype=np.float32) for path in pair] for pair in pairs]
    return float(np.mean([np.abs(first - second).mean() for first, second in arrays]))


def digits(bench: Bench) -> None:
    """The preset that ships: distil, resume, sample, eval, inspect, export, and the same first steps on the CPU."""
    few = "4" if bench.small else "20"
    short = ("distill", "--teacher", "digits", "--iterations", few)
    run = bench.run("digits", "distill", "--teacher", "digits", *(("--iterations", few) if bench.small else ()))
    host = bench.folder / "host"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bench.run, "host", *short, device="cpu")
        count = "64" if bench.small else "1000"
        bench.together(
            [
                ("short", *short),
                ("samples", "sample", str(run), "--seeds", "0-7"),
                ("eval", "eval", str(run), "--num-images", count),
                ("inspection", "inspect-policy", str(run)),
                ("adapter", "export", str(run), "--format", "adapter"),
                ("pipeline", "export", str(run), "--format", "pipeline"),
            ]
        )
        waiting.result()
    bench.compare("losses of digits on the device and on the CPU", furthest(host, bench.folder / "short"), SAME_LOSSES)


def flux(bench: Bench) -> None:
    """A FLUX pipeline of tiny parts: what saves memory changes what is computed by rounding alone."""
    sys.path.append(str(places.TESTS))
    from tiny_pipeline import whole_pipeline
    from zoo import ZOO, zoo_preset

    path, _ = zoo_preset(ZOO["flux"], bench.folder / "tiny")
    whole_pipeline(bench.folder / "tiny" / "base")
    (bench.folder / "prompts.txt").write_text("a red fox\na cat\n")
    prompts = ("--prompts", str(bench.folder / "prompts.txt"), "--set", "data.resolution=64")
    train = ("distill", "--teacher", str(path), *prompts)
    on_gpu = bench.device != "cpu"
    bits = ("fp8", "nf4") if on_gpu else ("fp8",)
    cached = bench.run("whole", *train)  # first, since it fills the cache that the others share
    bench.together(
        [("bf16", *train, "--base-precision", "bf16"), *((one, *train, "--base-precision", one) for one in bits)]
        + (
            [("offloaded", *train, "--offload-base", "--set", "optimisation.gradient_checkpointing=true")]
            if on_gpu
            else []
        )
    )
    for name in (*bits, "bf16"):
        bench.compare(f"losses of {name} and of fp32", furthest(cached, bench.folder / name), 0.1)
    draw = ("sample", str(cached), "a red fox", "--seeds", "0-1")
    ways = [("stays", *draw), ("compiled", *draw, "--compile")]
    if on_gpu:
        bench.compare(
            "losses of an offloaded base and of one that stays", furthest(cached, bench.folder / "offloaded"), 1e-5
        )
        ways += [(f"offload-{way}", *draw, "--offload", way) for way in ("model", "group", "sequential")]
        ways += [(f"sampled-{one}", *draw, "--base-precision", one) for one in ("int8", "nf4", "fp8")]
    bench.together(ways)
    for way, *_ in ways[1:]:
        allowed = 20.0 if way.startswith("sampled") else SAME_PICTURES
        bench.compare(f"pictures of {way}", apart(bench.folder / "stays", bench.folder / way), allowed)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="few iterations: does it run at all")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.device, options.small)
        os.environ["XDG_CACHE_HOME"] = str(bench.folder / "cache")
        os.environ.setdefault("PYTHONPATH", str(places.TESTS.parent))
        for part in (digits, flux):
            part(bench)
            if options.json is not None:
                about = machine(torch.device(options.device))
                write_json(options.json, {"benchmark": "commands", **about, "results": bench.rows})
    for row in bench.rows:
        print(json.dumps(row), flush=True)
    return int(not all(row["within"] for row in bench.rows))


if __name__ == "__main__":
    raise SystemExit(main())
