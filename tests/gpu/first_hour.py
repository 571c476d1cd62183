"""The first hour on a real GPU, in ten minutes: numerics, steps of training, and the benchmarks that wait for one.

    python tests/gpu/first_hour.py --output results.json [--only PART ...] [--device cuda|cpu] [--jobs N] [--list]

Every part is a program of its own, which writes JSON: what crashes, hangs or fails is written down, and the next part
begins. The parts are in the order of their worth. The same command goes on where it was stopped: what is done is not
done again. On a CPU all is tiny, and what needs a GPU says so. ``--jobs`` lets parts whose times are no result run
beside each other, before those whose times are.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS, ROOT = HERE.parent, HERE.parents[1]
DONE, NEEDS_GPU, NO_TIME = "done", "needs a GPU", "no time left"
LEAST = 15.0  # seconds under which no part is begun
SHOWN = 3000  # characters of what a part has written before it failed


@dataclass(frozen=True)
class Part:
    """``program`` and its arguments, to which --device and --json are added; ``seconds`` bound it.

    ``stdout``: what it prints is its result. ``small``: it takes --small, for a CPU. ``timed``: it wants the GPU alone.
    """

    name: str
    program: tuple[str, ...]
    seconds: float
    needs_gpu: bool = False
    stdout: bool = False
    small: bool = True
    timed: bool = False

    def command(self, device: str, result: Path) -> list[str]:
        """What is run."""
        told = [] if self.stdout else ["--device", device, "--json", str(result)]
        tiny = ["--small"] if self.small and device == "cpu" else []
        return [sys.executable, *self.program, *told, *tiny]


def step(preset: str, seconds: float = 120, cpu: bool = False) -> Part:
    return Part(f"step of {preset}", (str(HERE / "steps.py"), preset), seconds, needs_gpu=not cpu)


def benchmark(name: str, seconds: float, *options: str) -> Part:
    return Part(name, (str(TESTS / "benchmarks" / f"{name}.py"), *options), seconds, timed=True)


PARTS = (
    Part("doctor", ("-m", "piflow_cli", "doctor", "--json"), 75, stdout=True, small=False),
    Part("numerics", (str(HERE / "numerics.py"),), 180),
    step("flux-dev"),
    step("digits", cpu=True),
    step("imagenet-fm"),
    step("qwen-image"),
    step("krea2"),
    step("chroma"),
    step("flux-kontext"),
    step("qwen-image-edit-2511"),
    step("ernie-image"),
    step("longcat-image"),
    step("ovis-image"),
    step("sd35"),
    step("sana"),
    step("wan21-1.3b"),
    step("wan22-5b"),
    step("wan22-a14b"),
    step("ltx-video"),
    step("kandinsky6"),
    step("sdxl"),
    step("sd15"),
    step("imagenet-dit"),
    step("imagenet64"),
    step("z-image"),
    step("flux2-klein"),
    step("flux2-dev"),
    step("flux2-klein-edit"),
    step("flux2-dev-edit"),
    step("flux3-klein"),
    Part("kernel cases", (str(HERE / "kernel_cases.py"),), 150, needs_gpu=True, small=False),
    Part("commands", (str(HERE / "commands.py"),), 300),
    step("flux-dev-dx"),
    step("flux-dev-momentum"),
    benchmark("rollout", 150, "--rounds", "7"),
    benchmark("overhead", 120, "--rounds", "11"),
    # 24 GB are written and read: the part for which a lent machine may have no time left.
    benchmark("flux_step", 300, "--precisions", "bf16", "--rounds", "2"),
    benchmark("eval_throughput", 150),
)


def variables(device: str) -> dict[str, str]:
    """The environment of a part: the package of this checkout, and no network."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return found if device == "cuda" else {**found, "CUDA_VISIBLE_DEVICES": ""}


def run(part: Part, device: str, seconds: float) -> dict:
    """The outcome of a part within ``seconds``: its state, and all that it has written until then."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result, said = Path(folder) / "result.json", Path(folder) / "said.txt"
        with said.open("wb") as log:
            process = subprocess.Popen(
                part.command(device, result),
                cwd=ROOT,
                env=variables(device),
                stdin=subprocess.DEVNULL,
                stdout=result.open("wb") if part.stdout else log,
                stderr=log,
                start_new_session=True,
            )
            state = ended(process, seconds)
        outcome = {"state": state, "seconds": round(time.monotonic() - begun, 1)}
        if state != DONE:
            outcome["said"] = said.read_text(errors="replace")[-SHOWN:]
        return outcome | read(result)


def ended(process: subprocess.Popen, seconds: float) -> str:
    """How a process has ended; it and what it has started are killed where they take longer."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"failed: not done after {seconds:.0f} seconds"
    return DONE if code == 0 else f"failed: signal {-code}" if code < 0 else f"failed: exit code {code}"


def read(result: Path) -> dict:
    """What a part has left; of a part that was killed, the rows until then."""
    try:
        return {"result": json.loads(result.read_text())}
    except (OSError, ValueError):
        return {}


def write(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(aside, path)


@dataclass
class Hour:
    """The record at ``path``, and what is left of ``seconds`` from now on."""

    path: Path
    device: str
    seconds: float
    jobs: int = 1
    begun: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        start = {"program": "first_hour", "device": self.device, "parts": {}}
        self.record = start | read(self.path).get("result", {})
        if self.record["device"] != self.device:
            raise SystemExit(f"{self.path} was begun with --device {self.record['device']}: name another --output")

    def outcome(self, part: Part) -> dict:
        """What comes of a part in the time that is left."""
        left = self.begun + self.seconds - time.monotonic()
        if part.needs_gpu and self.device == "cpu":
            return {"state": NEEDS_GPU}
        if left < LEAST:
            # What an earlier call has found is worth more.
            return self.record["parts"].get(part.name) or {"state": NO_TIME}
        alone = {} if part.timed or self.jobs == 1 else {"beside": self.jobs - 1}
        return run(part, self.device, min(part.seconds, left)) | alone

    def take(self, part: Part) -> None:
        """Run a part that is not done yet, and write the record."""
        if self.record["parts"].get(part.name, {}).get("state") == DONE:
            return
        outcome = self.outcome(part)
        with self.lock:
            self.record["parts"][part.name] = outcome
            self.record["written"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self.record["machine"] = machine(self.record["parts"])
            write(self.path, self.record)
            print(f"{part.name:24} {outcome['state']:40} {outcome.get('seconds', 0):6.1f} s", flush=True)


def go(parts: Sequence[Part], path: Path, device: str, seconds: float, jobs: int = 1) -> dict:
    """Run what is not done yet, ``jobs`` parts at once where times do not count, and give the record."""
    hour = Hour(path, device, seconds, jobs)
    beside = [part for part in parts if jobs > 1 and not part.timed]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(hour.take, beside))
    for part in parts:
        if part not in beside:
            hour.take(part)
    return hour.record


def machine(parts: dict) -> dict | None:
    """Device, versions and date, as the first part with them has written them."""
    keys = ("device", "threads", "versions", "date")
    found = [outcome["result"] for outcome in parts.values() if "versions" in outcome.get("result", {})]
    return {key: found[0][key] for key in keys} if found else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("first_hour.json"), help="the record; it is gone on with")
    parser.add_argument("--only", action="append", default=[], help="parts whose name holds this text; may come again")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=570, help="of all parts together")
    parser.add_argument("--jobs", type=int, default=1, help="parts at once, of those whose times are no result")
    parser.add_argument("--list", action="store_true", help="name the parts and their bounds, and stop")
    options = parser.parse_args(arguments)
    parts = [part for part in PARTS if not options.only or any(text in part.name for text in options.only)]
    if options.list or not parts:
        print("\n".join(f"{part.name:24} at most {part.seconds:.0f} s" for part in parts or PARTS))
        return 0 if options.list else 2
    record = go(parts, options.output, options.device, options.seconds, options.jobs)
    states = [record["parts"][part.name]["state"] for part in parts]
    return int(any(state not in (DONE, NEEDS_GPU) for state in states))


if __name__ == "__main__":
    sys.exit(main())
