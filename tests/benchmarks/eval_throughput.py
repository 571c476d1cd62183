"""Whether features cost time of their own, where they have a core or a stream to themselves.

    python tests/benchmarks/eval_throughput.py [--json FILE] [--device auto|cpu|cuda] [--images N] [--small]

Runs of piflow_cli.evaluation.generate, medians of three rounds: generation alone, features alone (of states that are in the
cache), and both, as `piflow eval` has them; and the two alone in two threads that know nothing of each other, which is what the
machine gives at best. The student is a random one on the digits teacher; what looks at pictures is a random convolutional
network, whose work is set to about that of generation, the hardest case to hide. On a CPU torch is given one thread, so that
two cores leave one to each side; with all cores on either side nothing can be hidden, and `piflow eval` does not try to. The first
generation and the last features have nothing beside them, so of B batches the best is (B + 1) / B.

The second table is what people have: a student of one evaluation, seen as pixels and by the classifier of digits, in batches of
`piflow eval` and with all threads, where features follow generation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from common import machine, write_json
from torch import Tensor, nn

from piflow_cli.console import Console, format_table
from piflow_cli.devices import choose_device, keep_freed_memory
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.generate import Generation, Look
from piflow_cli.evaluation.processes import Processes
from piflow_cli.evaluation.run import CLASS_BATCH
from piflow_cli.evaluation.store import Store
from piflow_cli.evaluation.subjects import Subject
from piflow_cli.generation import sample_student
from piflow_cli.presets import load
from piflow_cli.scenes import Scene
from piflow_cli.shots import Shot
from piflow_cli.student import StudentFacts, student_of
from piflow_cli.teachers import family_of
from piflow_cli.teachers.locate import locate

STEPS, BATCH, ROUNDS = 4, 16, 5
COLUMNS = ("run", "seconds", "over the slower")
DIGITS = ("pixels", "digits-classifier")


class Looker(nn.Module):
    """Pictures (B, 1, 8, 8) → features (B, 64) by ``repeats`` passes of a small network."""

    def __init__(self, repeats: int, device: torch.device) -> None:
        super().__init__()
        self.repeats, self.device = repeats, device
        self.network = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.to(device).requires_grad_(False)

    def __call__(self, pictures: Tensor, shots: Sequence[Shot]) -> Tensor:
        for _ in range(self.repeats):
            found = self.network(pictures.to(self.device))
        return found.cpu()


def digits_scene(images: int, device: torch.device) -> Scene:
    family, facts = family_of("dit"), StudentFacts.of(load("digits"))
    student = student_of(family.load(locate("preset:digits")), family, facts, seed=0)
    model = student.model.eval().requires_grad_(False).to(device)
    shots = tuple(Shot(seed, seed % 10) for seed in range(images))
    shape = family.sample_shape(model)
    condition = lambda shots: family.condition(model, [shot.label for shot in shots])  # noqa: E731
    return Scene(student, Path("none"), shots, device, condition, lambda shot: shape, lambda states: states)


def seconds_of(scene: Scene, subject: Subject, looks: dict[str, Look], folder: Path, batch: int = BATCH) -> float:
    """One run of all shots; what ``folder`` holds is not made again."""
    generation = Generation(scene, scene.shots, looks, Store(folder), Processes(scene.device), batch)
    started = time.perf_counter()
    generation.run(subject, Console(quiet=True))
    return time.perf_counter() - started


def one_round(scene: Scene, subject: Subject, looks: dict[str, Look], batch: int = BATCH) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        alone = seconds_of(scene, subject, {}, Path(folder), batch)
        features = seconds_of(scene, subject, looks, Path(folder), batch)
        both = seconds_of(scene, subject, looks, Path(other), batch)
    return {"generation": alone, "features": features, "both": both}


def unlinked(scene: Scene, subject: Subject, looker: Looker) -> float:
    """Seconds until generation and features of other pictures, started at once, have both ended."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other, ThreadPoolExecutor(2) as pool:
        seconds_of(scene, subject, {}, Path(folder))
        threads = torch.get_num_threads()

        def run(looks: dict[str, Looker], place: str) -> None:
            torch.set_num_threads(threads)
            seconds_of(scene, subject, looks, Path(place))

        started = time.perf_counter()
        for work in [pool.submit(run, {}, other), pool.submit(run, {"looker": looker}, folder)]:
            work.result()
        return time.perf_counter() - started


def subject_of(scene: Scene, steps: int) -> Subject:
    draw = torch.no_grad()(lambda noise, conditioning: sample_student(scene.student, noise, conditioning, steps=steps))
    return Subject("student", "student", "gm", steps, {"benchmark": "eval_throughput"}, draw)


def measure(scene: Scene, rounds: int) -> list[dict]:
    """The hardest case: as much work on either side."""
    subject = subject_of(scene, STEPS)
    # Of two numbers of passes, so that what a batch costs besides them does not count as theirs.
    few, many = (one_round(scene, subject, {"looker": Looker(repeats, scene.device)}) for repeats in (2, 10))
    each = max((many["features"] - few["features"]) / 8, 1e-9)
    looker = Looker(max(1, round((many["generation"] - few["features"]) / each) + 2), scene.device)
    looks = {"looker": looker}
    turns = [one_round(scene, subject, looks) | {"two threads": unlinked(scene, subject, looker)} for _ in range(rounds)]
    return rows_of(turns)


def measure_digits(scene: Scene, rounds: int) -> list[dict]:
    """A student of one evaluation under the default extractors of digits."""
    looks: dict[str, Look] = {}
    for name in DIGITS:
        extractor = open_extractor(name, scene.device)
        looks[name] = lambda pictures, shots, extractor=extractor: extractor.features(pictures)
    return rows_of([one_round(scene, subject_of(scene, 1), looks, CLASS_BATCH) for _ in range(1 + rounds)][1:])


def rows_of(turns: Sequence[dict[str, float]]) -> list[dict]:
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    slower = max(seconds["generation"], seconds["features"])
    return [{"run": name, "seconds": value, "over the slower": value / slower} for name, value in seconds.items()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=512, help="at most as many as the cache keeps states of")
    parser.add_argument("--small", action="store_true", help="one round of few pictures, to see that it runs")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    threads = torch.get_num_threads()
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(1)
    scene, rounds = digits_scene(2 * BATCH if options.small else options.images, device), 1 if options.small else ROUNDS
    rows = measure(scene, rounds)
    record = {"benchmark": "eval_throughput", **machine(device), "batches": -(-len(scene.shots) // BATCH), "results": rows}
    torch.set_num_threads(threads)
    digits = measure_digits(scene, rounds)
    record["digits"] = {"threads": threads, "results": digits}
    print(format_table(rows, COLUMNS), format_table(digits, COLUMNS), sep="\n\n")
    if options.json is not None:
        write_json(options.json, record)


if __name__ == "__main__":
    main()
