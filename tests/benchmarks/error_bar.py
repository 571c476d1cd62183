"""How often the error bar of a quick FID holds the value of 10,000 images.

    python tests/benchmarks/error_bar.py [--json FILE] [--steps 8,2] [--counts 250,500,1000,2000] [--draws 100]

Pools of 10,000 digits come from the teacher by a few Euler steps, from the same noise, the classes in turn. Each row
draws N of a pool without replacement, 100 times, and asks `frechet_interval` where the distance of all 10,000 lies: to
the 1,797 digits of the training set, and to the first pool, whose pictures of the same noise are drawn together with
them. The measured distances show what N alone would have said.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from common import machine, write_json
from torch import Tensor

from piflow_cli.console import format_table
from piflow_cli.core.guidance import Guidance
from piflow_cli.data.labelled_images import load_images
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.extractors.moments import Moments, moments
from piflow_cli.evaluation.metrics.frechet import frechet_distance
from piflow_cli.evaluation.metrics.frechet_interval import frechet_interval
from piflow_cli.sampling.denoise import sample_teacher, seeded_generators, seeded_noise
from piflow_cli.teachers import family_of
from piflow_cli.weights.locate import locate

EXTRACTORS = ("pixels", "digits-classifier")
BATCH = 250
COLUMNS = (
    "steps",
    "reference",
    "extractor",
    "images",
    "enough",
    "value",
    "hits",
    "draws",
    "measured",
    "estimate",
    "spread",
    "width",
)


def pool_of(steps: int, size: int) -> Tensor:
    """Digits (size, 1, 8, 8) of the teacher, seeds 0 to size - 1, unclipped."""
    family = family_of("dit")
    teacher = family.load(locate("preset:digits"))
    parts = []
    for start in range(0, size, BATCH):
        seeds = range(start, min(start + BATCH, size))
        noise = seeded_noise(seeded_generators(seeds), family.sample_shape(teacher))
        labels = family.condition(teacher, [seed % family.class_count(teacher) for seed in seeds])
        parts.append(sample_teacher(family, teacher, noise, labels, steps, 1.0, Guidance()))
    return torch.cat(parts)


def coverage(pool: Tensor, reference: Moments | Tensor, count: int, draws: int) -> dict:
    """One row for features ``pool`` (M, D), against moments or features (M,
    D) of the same noise: draws of ``count``."""
    paired = isinstance(reference, Tensor)
    value = frechet_distance(moments(pool), moments(reference) if paired else reference)
    intervals = []
    for draw in range(draws):
        chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(draw))[:count]
        intervals.append(frechet_interval(pool[chosen], reference[chosen] if paired else reference, at=len(pool)))
    estimates = [interval.estimate for interval in intervals]
    return {
        "images": count,
        "enough": intervals[0].enough,
        "value": value,
        "hits": sum(interval.low <= value <= interval.high for interval in intervals),
        "draws": draws,
        "measured": statistics.mean(interval.measured for interval in intervals),
        "estimate": statistics.mean(estimates),
        "spread": statistics.stdev(estimates),
        "width": statistics.mean(interval.high - interval.low for interval in intervals),
    }


def rows_of(name: str, data: Tensor, pools: dict[int, Tensor], counts: list[int], draws: int) -> Iterator[dict]:
    """Rows of one extractor: every pool against the data, and every pool but the first against the first."""
    extractor = open_extractor(name, torch.device("cpu"))
    features = {steps: extractor.features(pool) for steps, pool in pools.items()}
    first = next(iter(pools))
    for steps in pools:
        references = {"data": moments(extractor.features(data))}
        if steps != first:
            references[f"{first} steps, same noise"] = features[first]
        for reference, against in references.items():
            for count in counts:
                yield {
                    "steps": steps,
                    "reference": reference,
                    "extractor": name,
                    **coverage(features[steps], against, count, draws),
                }


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows, versions and machine here")
    parser.add_argument("--steps", type=numbers, default=[8, 2], help="Euler steps of the teacher, one pool each")
    parser.add_argument("--counts", type=numbers, default=[250, 500, 1000, 2000], help="images of a quick evaluation")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--pool", type=int, default=10_000)
    options = parser.parse_args(arguments)
    data, _ = load_images(locate("preset:digits/images.safetensors"))
    with torch.no_grad():
        pools = {steps: pool_of(steps, options.pool) for steps in options.steps}
        rows = [row for name in EXTRACTORS for row in rows_of(name, data, pools, options.counts, options.draws)]
    print(format_table(rows, COLUMNS))
    if options.json is not None:
        write_json(
            options.json,
            {"benchmark": "error_bar", **machine(torch.device("cpu")), "pool": options.pool, "results": rows},
        )


if __name__ == "__main__":
    main()
