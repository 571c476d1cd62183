"""Refusals that only Python meets, since the command line comes before with another hint; and what mends each."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from hint_typing import commands
from PIL import Image
from safetensors.torch import save_file
from tiny_students import tiny_student
from zoo import ZOO, zoo_preset

from piflow_cli.app import main
from piflow_cli.console import SILENT
from piflow_cli.data.buckets import buckets_of
from piflow_cli.data.labelled_images import load_images
from piflow_cli.data.sources import open_data
from piflow_cli.evaluation.distributions import Sides, measure
from piflow_cli.evaluation.extractors import open_extractor
from piflow_cli.evaluation.extractors.features import FeatureSet
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.evaluation.folder_run import FolderRequest, evaluate_folder
from piflow_cli.evaluation.metrics.frechet_interval import frechet_interval
from piflow_cli.evaluation.metrics.inception_score import inception_scores
from piflow_cli.evaluation.request import EvalRequest
from piflow_cli.exporting.copies import read_index
from piflow_cli.inspection.request import InspectRequest
from piflow_cli.presets.resolve import load, resolve
from piflow_cli.sampling.request import SampleRequest
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.open import find_student
from piflow_cli.teachers import family_of

CPU = torch.device("cpu")
FEATURES = torch.rand(64, 16, generator=torch.Generator().manual_seed(0))
WHOLE = FeatureSet("pixels", "none", "pictures", 64, moments(FEATURES), FEATURES)


@dataclass(frozen=True)
class Refusal:
    """``act`` of a folder is refused with the ``hint`` of a module; ``mended`` is the same after what it says."""

    module: str
    hint: str
    act: Callable[[Path], object]
    mended: Callable[[Path, str], object]


def sized(folder: Path, *assignments: str) -> object:
    return buckets_of(resolve("flux-dev", None, ["data.resolution=null", *assignments], {}).data, 16)


def sized_as(folder: Path, hint: str) -> None:
    for part in commands(hint):
        assert sized(folder, shlex.split(part)[-1])


def pictures(folder: Path) -> Path:
    save_file(
        {"images": torch.zeros(2, 4, 4, dtype=torch.uint8), "labels": torch.arange(2)}, folder / "images.safetensors"
    )
    return folder / "images.safetensors"


def student(folder: Path) -> str:
    save_adapter(tiny_student(), folder / "student")
    return str(folder / "student")


def measured(folder: Path, metric: str) -> object:
    for number in range(2):
        (folder / "pictures").mkdir(exist_ok=True)
        Image.new("L", (4, 4), 9 * number).save(folder / "pictures" / f"{number}.png")
    place = folder / "pictures"
    request = FolderRequest(place, str(place), "pixels", (metric,), cache=folder / "cache")
    return evaluate_folder(request, CPU, SILENT)


def read(folder: Path, index: str) -> object:
    (folder / "model_index.json").write_text(index)
    return read_index(folder / "model_index.json")


def named_first(hint: str) -> str:
    """The first of a list after a colon."""
    return hint.partition(": ")[2].partition(",")[0]


def of_classes(folder: Path) -> object:
    preset = resolve("flux-dev", None, [], {"data.prompts": "-"})
    pictured = replace(preset, data=replace(preset.data, prompts=None, images=str(pictures(folder))))
    return open_data(pictured, family_of("flux"), None, None, SILENT)


def of_texts(folder: Path, hint: str) -> None:
    (folder / "prompts.txt").write_text("a red fox\n")
    preset, _ = zoo_preset(ZOO["flux"], folder)
    typed = hint.removeprefix("give it ").replace("FILE", str(folder / "prompts.txt")).split()
    line = f"distill --teacher {preset} --set data.resolution=64 --dry-run --quiet --device cpu --output {folder / 'd'}"
    assert main([*line.split(), *typed]) == 0


def helps(folder: Path, hint: str) -> None:
    assert main(hint.partition(" lists")[0].split()[1:]) == 0


SIDES = Sides(WHOLE, WHOLE, open_extractor("pixels", CPU), False)
REFUSALS = [
    Refusal("data/buckets.py", "--set data.resolution=1024, or --set data.sizes=[[832,1216]]", sized, sized_as),
    Refusal(
        "data/labelled_images.py",
        "name a safetensors file; distill: --set data.images=FILE",
        lambda folder: load_images(folder / "nowhere"),
        lambda folder, hint: load_images(pictures(folder)),
    ),
    Refusal("data/sources.py", "give it --prompts FILE", of_classes, of_texts),
    Refusal(
        "evaluation/distributions.py",
        "known: {}",
        lambda folder: measure(("beauty",), WHOLE, WHOLE, SIDES.extractor),
        lambda folder, hint: measure((named_first(hint),), WHOLE, WHOLE, SIDES.extractor),
    ),
    Refusal(
        "evaluation/folder_run.py",
        "known: {}",
        lambda folder: measured(folder, "beauty"),
        lambda folder, hint: measured(folder, named_first(hint)),
    ),
    Refusal(
        "evaluation/extractors/base.py",
        "leave --inception-weights out, or: --extractor inception",
        lambda folder: open_extractor("pixels", CPU, folder / "weights.pt"),
        lambda folder, hint: open_extractor("pixels", CPU),
    ),
    Refusal(
        "evaluation/extractors/features.py",
        "name a folder of pictures, or leave it out of --metrics",
        lambda folder: replace(WHOLE, features=None).need_features("KID"),
        lambda folder, hint: WHOLE.need_features("KID"),
    ),
    Refusal(
        "evaluation/metrics/frechet_interval.py",
        "take more: --num-images {}",
        lambda folder: frechet_interval(FEATURES[:2], WHOLE.moments),
        lambda folder, hint: frechet_interval(FEATURES[: int(hint.split()[-1])], WHOLE.moments),
    ),
    Refusal(
        "evaluation/metrics/inception_score.py",
        "leave it out of --metrics",
        lambda folder: inception_scores(SIDES),
        lambda folder, hint: measure(("fid",), WHOLE, WHOLE, SIDES.extractor),
    ),
    Refusal(
        "evaluation/request.py",
        "--save-images wants a folder: --output DIR",
        lambda folder: EvalRequest(students=("x",), save_images=True).check(),
        lambda folder, hint: EvalRequest(students=("x",), save_images=True, output=folder).check(),
    ),
    Refusal(
        "exporting/copies.py",
        "copy it again, or name another base: --base PATH",
        lambda folder: read(folder, "{"),
        lambda folder, hint: read(folder, '{"_class_name": "FluxPipeline"}'),
    ),
    Refusal(
        "inspection/request.py",
        "piflow inspect-policy --help lists what there is",
        lambda folder: InspectRequest(students=()).check(),
        helps,
    ),
    Refusal(
        "sampling/request.py", "piflow sample --help lists what there is", lambda folder: SampleRequest().check(), helps
    ),
    Refusal(
        "students/adapters.py",
        "leave --base-precision out",
        lambda folder: find_student(student(folder)).load(precision="fp8"),
        lambda folder, hint: find_student(student(folder)).load(),
    ),
    Refusal(
        "teachers/__init__.py",
        "families: {}",
        lambda folder: family_of("unet"),
        lambda folder, hint: family_of(named_first(hint)),
    ),
    Refusal(
        "teachers/base.py",
        "name pictures with labels; distill: --data SOURCE, and no --prompts",
        lambda folder: family_of("dit").encoders(load("digits").teacher),
        lambda folder, hint: load_images(pictures(folder)),
    ),
]
KEYS = {f"{refusal.module}: {refusal.hint}" for refusal in REFUSALS}
