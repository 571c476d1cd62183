"""Whether features cost time of their own, where they have a core or a stream to themselves.

    python tests/benchmarks/eval_throughput.py [--json FILE] [--device auto|cpu|cuda] [--small]

Runs of piflow_cli.evaluation.generate, medians of three rounds: generation alone, features alone (of states that are in
the cache), and both, as `piflow eval` has them; and the two alone in two threads that know nothing of each other, which
is what the machine gives at best. The student is a random one on the digits teacher, with as many evaluations as make
its work about that of the extractor: the hardest case to hide. On a CPU torch is given one thread, so that two cores
leave one to each side; with all cores on either side nothing can be hidden, and `piflow eval` does not try to. The
first generation and the last features have nothing beside them, so of B batches the best is (B + 1) / B.

The extractors are those that people use, at their full size: Inception through clean-fid and DINOv2 through
transformers, with random weights. The last row is none of them, and the worst there can be: a small network called from
Python as often as the student's, so that two threads wait for one interpreter.

The second table is what people have on digits: a student of one evaluation, seen as pixels and by the classifier, in
batches of `piflow eval` and with all threads, where features follow generation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from common import machine, write_json
from network_extractors import SmallNetwork, dinov2, features_by, inception

from piflow_cli.console import Console, format_table
from piflow_cli.evaluation.candidates import Candidate
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.generate import FeatureFunction, Generation
from piflow_cli.evaluation.run import CLASS_BATCH
from piflow_cli.presets.resolve import load
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.sampling.opened import OpenedModel
from piflow_cli.sampling.request import ImageSpec
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.locate import StudentFiles
from piflow_cli.students.open import FoundStudent
from piflow_cli.students.student import student_of
from piflow_cli.system.devices import choose_device, keep_freed_memory
from piflow_cli.system.group import Processes
from piflow_cli.teachers import family_of
from piflow_cli.weights.cache import Cache
from piflow_cli.weights.locate import locate

ROUNDS = 3
COLUMNS = ("seen by", "evaluations", "generation", "features", "both", "over the slower", "unlinked over the slower")
DIGITS = ("pixels", "digits-classifier")


@dataclass(frozen=True)
class Case:
    """An extractor, the number of its pictures, and the batch size; so few that the cache keeps all states."""

    name: str
    open: Callable[[Path, torch.device], FeatureFunction]
    images: int = 256
    batch: int = 8


CASES = (
    Case("Inception", inception),
    Case("DINOv2-small", dinov2),
    Case("a small network from Python", lambda folder, device: SmallNetwork(40, device), images=512, batch=16),
)


@dataclass(frozen=True)
class Throughput:
    """One case on one opened model."""

    opened: OpenedModel
    extractors: dict[str, FeatureFunction]
    batch: int

    def seconds(self, steps: int, extractors: dict[str, FeatureFunction], folder: Path) -> float:
        """One run over all pictures; what ``folder`` holds is not made again."""
        draw = torch.no_grad()(
            lambda noise, conditioning: sample_student(self.opened.student, noise, conditioning, steps=steps)
        )
        candidate = Candidate("student", "student", "gm", steps, {"benchmark": "eval_throughput"}, draw)
        generation = Generation(
            self.opened, self.opened.specs, extractors, Cache(folder), Processes(self.opened.device), self.batch
        )
        started = time.perf_counter()
        generation.run(candidate, Console(quiet=True))
        return time.perf_counter() - started

    def round(self, steps: int) -> dict[str, float]:
        """Generation alone, features alone, both."""
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            generation = self.seconds(steps, {}, Path(folder))
            features = self.seconds(steps, self.extractors, Path(folder))
            return {
                "generation": generation,
                "features": features,
                "both": self.seconds(steps, self.extractors, Path(other)),
            }

    def unlinked(self, steps: int) -> float:
        """Seconds until generation and features of other pictures, started at once, have both ended."""
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryDirectory() as other,
            ThreadPoolExecutor(2) as pool,
        ):
            self.seconds(steps, {}, Path(folder))
            threads = torch.get_num_threads()

            def run(extractors: dict[str, FeatureFunction], place: str) -> None:
                torch.set_num_threads(threads)
                self.seconds(steps, extractors, Path(place))

            started = time.perf_counter()
            for work in [pool.submit(run, {}, other), pool.submit(run, self.extractors, folder)]:
                work.result()
            return time.perf_counter() - started

    def balanced_steps(self) -> int:
        """The evaluations that make generation about as much work as features."""
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            few = self.seconds(2, {}, Path(folder))
            features = self.seconds(2, self.extractors, Path(folder))
            each = max((self.seconds(10, {}, Path(other)) - few) / 8, 1e-9)
        return max(1, 2 + round((features - few) / each))


def digits_model(images: int, device: torch.device) -> OpenedModel:
    family, facts = family_of("dit"), StudentFacts.of(load("digits"))
    student = student_of(family.load(locate("preset:digits")), family, facts, seed=0)
    model = student.model.eval().requires_grad_(False).to(device)
    specs = tuple(ImageSpec(seed, seed % 10) for seed in range(images))
    shape = family.sample_shape(model)

    def condition(specs):
        return family.condition(model, [spec.label for spec in specs])

    found = FoundStudent("none", StudentFiles(Path("none"), None), facts)
    return OpenedModel(student, found, specs, device, condition, lambda spec: shape, lambda states: states)


def measure(case: Case, small: bool, device: torch.device) -> dict:
    """As much work on either side."""
    with tempfile.TemporaryDirectory() as folder:
        extractor = case.open(Path(folder), device)
        throughput = Throughput(
            digits_model(2 * case.batch if small else case.images, device), {case.name: extractor}, case.batch
        )
        steps = throughput.balanced_steps()
        turns = [
            throughput.round(steps) | {"unlinked": throughput.unlinked(steps)} for _ in range(1 if small else ROUNDS)
        ]
    return {
        "seen by": case.name,
        "evaluations": steps,
        "batches": len(throughput.opened.specs) // case.batch,
        **row_of(turns),
    }


def measure_digits(small: bool, device: torch.device) -> dict:
    """A student of one evaluation under the default extractors of digits."""
    extractors = {name: features_by(open_extractor(name, device)) for name in DIGITS}
    throughput = Throughput(digits_model(32 if small else 512, device), extractors, CLASS_BATCH)
    throughput.round(1)
    return {
        "seen by": " and ".join(DIGITS),
        "evaluations": 1,
        **row_of([throughput.round(1) for _ in range(1 if small else 5)]),
    }


def row_of(turns: list[dict[str, float]]) -> dict[str, float]:
    """Median seconds, and how much longer than the slower part the whole takes."""
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    slower = max(seconds["generation"], seconds["features"])
    shown = {"both": "over the slower", "unlinked": "unlinked over the slower"}
    return seconds | {title: seconds[name] / slower for name, title in shown.items() if name in seconds}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--small", action="store_true", help="one round of few pictures under the last extractor, to see that it runs"
    )
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    threads = torch.get_num_threads()
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(1)
    rows = [measure(case, options.small, device) for case in (CASES[-1:] if options.small else CASES)]
    record = {"benchmark": "eval_throughput", **machine(device), "results": rows}
    torch.set_num_threads(threads)
    digits = measure_digits(options.small, device)
    record["digits"] = {"threads": threads, "results": [digits]}
    print(format_table(rows, COLUMNS), format_table([digits], COLUMNS[:-1]), sep="\n\n")
    if options.json is not None:
        write_json(options.json, record)


if __name__ == "__main__":
    main()
