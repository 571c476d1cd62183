"""The request of `piflow eval`, and the options that do not go together."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from ..errors import UsageError
from ..presets.bounds import MEASURED
from ..sampling.limits import faults_of, listed
from .extractor_kinds import ROWS as EXTRACTORS
from .limits import NumberLimit
from .metric_kinds import (
    FEATURES,
    PATCHES,
    PROMPTS,
    REFERENCE,
    STUDENT,
    metric_kinds,
    metric_names,
    needing,
    spoken_names,
    usual,
    usual_of_folders,
)

# The paper's protocols (pi-Flow, 2510.14974): 50,000 pictures of ImageNet, 10,000 prompts of COCO.
PROTOCOLS = ("quick", "full")
FULL_CLASSES, FULL_PROMPTS = 50_000, 10_000
# Pictures where nothing else is asked. A model that comes with data of its own is measured at as many as there are, up
# to MOST_DATA: the two samples are then of one size.
QUICK_IMAGES = 1_000
MOST_DATA = 10_000


@dataclass(frozen=True)
class EvalRequest:
    """The command's options; None stands for "what goes with this student".

    ``students``: whatever `piflow sample` takes, each with ``subfolder`` inside it; none with ``images``, a folder of
    pictures, whose statistics go to the file ``save_statistics``. ``frames``: of each video. ``steps``: evaluations of
    each student; ``teacher_steps``: Euler steps of rows of the teacher itself. ``fine_steps``: of its fine solution, to
    which students are compared. ``protocol``: quick, full or neither. ``trust_weights``: run ``inception_weights`` that
    are not the published ones. ``clip``: the CLIP of the CLIP score. ``cache``: where states and features are kept.
    ``output``: the folder that takes the report; None: none is written. ``overwrite``: an earlier report may go from
    there, and earlier statistics from their file. ``limits``: of numbers, which are to be measured.
    """

    students: tuple[str, ...] = ()
    images: Path | None = None
    reference: str | None = None
    metrics: tuple[str, ...] | None = None
    protocol: str | None = None
    extractors: tuple[str, ...] = ()
    inception_weights: Path | None = None
    trust_weights: bool = False
    clip: str | None = None
    num_images: int | None = None
    seeds: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None
    prompts_from: str | None = None
    text_column: str | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    steps: tuple[int, ...] = ()
    substeps: int | None = None
    temperature: float | str | None = None
    teacher_steps: tuple[int, ...] = ()
    fine_steps: int | None = None
    teacher: str | None = None
    base: str | None = None
    subfolder: str | None = None
    batch_size: int | None = None
    cache: Path | None = None
    save_images: bool = False
    save_statistics: Path | None = None
    output: Path | None = None
    overwrite: bool = False
    device: str = "auto"
    limits: tuple[NumberLimit, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether there is a report: statistics of pictures can also be saved without a comparison."""
        return self.images is None or self.reference is not None

    @property
    def measures(self) -> tuple[str, ...]:
        """The metrics, in the order of their table."""
        if self.metrics is not None:
            return self.metrics
        return usual(self.protocol) if self.images is None else usual_of_folders(self.protocol)

    @property
    def measures_of_videos(self) -> tuple[str, ...]:
        """The metrics of students that make videos, which have more where none is named."""
        named = self.metrics is not None or self.images is not None
        return self.measures if named else usual(self.protocol, videos=True)

    def asks(self, metric: str) -> bool:
        """Whether ``metric`` was named: then it is an error that it cannot be had."""
        return self.metrics is not None and metric in self.metrics

    def given(self, option: str) -> bool:
        """Whether ``option``, such as --clip, was given."""
        return getattr(self, option.removeprefix("--").replace("-", "_")) is not None

    def check(self) -> None:
        """Raise UsageError with all options that do not go together."""
        if self.protocol not in (None, *PROTOCOLS):
            # The measured metrics depend on it.
            raise UsageError(f"{self.protocol!r} is no protocol: choose {' or '.join(PROTOCOLS)}", "leave it out")
        faults = self._faults_of_folders() if self.images is not None else self._faults_of_students()
        faults += [*faults_of(self, MEASURED), *self._faults_of_what_is_not_measured()]
        empty = {
            "STUDENT": self.students, "--reference": (self.reference,), "--subfolder": (self.subfolder,),
            "--extractor": self.extractors,
        }  # fmt: skip
        faults += [f"{option}: the name is empty" for option, names in empty.items() if "" in names]
        if self.trust_weights and self.inception_weights is None:
            faults.append("--trust-weights is about a file that is named: --inception-weights FILE")
        if self.num_images is not None and self.seeds is not None:
            faults.append("--seeds and --num-images exclude each other: keep --seeds, which counts the images too")
        if self.num_images == 1 or (self.seeds is not None and len(self.seeds) == 1 and self.prompts_from is None):
            faults.append("one image has no distribution: ask for two at least")
        if self.save_images and self.output is None:
            faults.append("--save-images wants a folder: --output DIR")
        if faults:
            raise UsageError(listed(faults), "piflow eval --help lists what there is")

    def _faults_of_what_is_not_measured(self) -> list[str]:
        """Faults of options that nothing of what is measured uses."""
        through_extractors, with_reference = needing(FEATURES), needing(REFERENCE)
        extracted = any(name in self.measures for name in through_extractors)
        weighted = {row.name for row in EXTRACTORS.values() if row.takes_weights}
        inception = extracted and (not self.extractors or not weighted.isdisjoint(self.extractors))
        compared = self.reference is not None and self.images is None
        idle = {
            f"--reference is for {', '.join(with_reference)}, and none of them is measured": (
                compared and not any(name in self.measures for name in with_reference)
            ),
            **{
                f"{kind.option} is of the metric {kind.name}, which is not asked for: --metrics {kind.name}": (
                    self.given(kind.option) and kind.name not in self.measures
                )
                for kind in metric_kinds()
                if kind.option is not None
            },
            "--inception-weights are for the extractor inception, which nothing here uses": (
                self.inception_weights is not None and not inception
            ),
            f"--extractor is for {', '.join(through_extractors)}, and none of them is measured": (
                bool(self.extractors) and not extracted
            ),
        }
        return [fault for fault, does_nothing in idle.items() if does_nothing]

    def _faults_of_folders(self) -> list[str]:
        faults = ["--images DIR measures pictures that are there: name no student beside it"] if self.students else []
        if self.reference is None and self.save_statistics is None:
            faults.append(
                "--images DIR wants to know what to compare with: --reference DIR; or only --save-statistics FILE"
            )
        elif self.reference in ("data", "teacher"):
            faults.append(
                f"--reference {self.reference} belongs to a student: name a folder or a file of statistics beside"
                " --images"
            )
        if self.protocol == "full":
            faults.append("--full is how many images a student makes, and a folder is measured whole: leave it out")
        faults += self._faults_of_saving()
        faults += [
            f"--metrics {name} needs a student: pictures alone do not tell"
            for name in self.measures
            if name in needing(STUDENT)
        ]
        given = {
            "--seeds": self.seeds, "--labels": self.labels, "--prompts": self.prompts_from,
            "--text-column": self.text_column, "--steps": self.steps,
            "--teacher-steps": self.teacher_steps, "--fine-steps": self.fine_steps, "--substeps": self.substeps,
            "--temperature": self.temperature, "--teacher": self.teacher, "--base": self.base,
            "--subfolder": self.subfolder,
            "--clip": self.clip, "--save-images": self.save_images, "--height": self.height, "--width": self.width,
            "--frames": self.frames,
        }  # fmt: skip
        named = [option for option, value in given.items() if value not in (None, (), False)]
        return faults + ([f"{', '.join(named)}: settings of a student, and --images has none"] if named else [])

    def _faults_of_saving(self) -> list[str]:
        path, faults = self.save_statistics, []
        if path is None:
            return faults
        if path.suffix != ".safetensors":
            faults.append(
                f"--save-statistics {path}: statistics are read again from a file that is called .safetensors"
            )
        if len(self.extractors) > 1:
            faults.append(
                f"--save-statistics {path}: one file is of one --extractor, and {len(self.extractors)} are named"
            )
        if self.metrics is not None and all(name in needing(PATCHES) for name in self.metrics):
            faults.append(
                f"--save-statistics keeps features of whole pictures, and --metrics {','.join(self.metrics)} takes none"
            )
        if self.reference is None and self.metrics is not None:
            faults.append("--metrics wants to know what to compare with: --reference DIR")
        if self.reference is None and self.limits:
            faults.append(f"{self.limits[0].option} wants to know what to compare with: --reference DIR")
        return faults

    def _faults_of_students(self) -> list[str]:
        if not self.students:
            return ["neither a student nor --images DIR given: type piflow eval runs/digits"]
        twice = sorted({name for name in self.students if self.students.count(name) > 1})
        faults = [f"the student {name} comes twice: name each once" for name in twice]
        if self.save_statistics is not None:
            faults.append(
                "--save-statistics keeps those of a folder, and none is given: in the student's place --images DIR"
            )
        if self.text_column is not None and self.prompts_from is None:
            faults.append("--text-column belongs to a file of prompts, and none is given: name it, --prompts FILE")
        if self.prompts_from is None:
            faults += [
                f"--metrics {name} needs the texts that pictures are to show: --prompts FILE"
                for name in self.measures
                if name in needing(PROMPTS)
            ]
        return faults


def parse_metrics(text: str) -> tuple[str, ...]:
    """Names with commas between, each once, in the order of the table; raises UsageError with every unknown one.

    A number of a metric stands for the metric, under its name or its title in reports: precision, "patch FID".
    """
    known, spoken = metric_names(), spoken_names()
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name.lower() not in spoken]
    if unknown:
        close = difflib.get_close_matches(unknown[0].lower(), spoken, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(
            f"--metrics: there is no metric {', '.join(map(repr, unknown))}{meant}", f"choose among {','.join(known)}"
        )
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(f"--metrics {text}: {twice[0]} comes twice", "name each metric once")
    wanted = {spoken[name.lower()].name for name in names}
    return tuple(name for name in known if name in wanted)


class EvalReport(TypedDict, total=False):
    """What `piflow eval --json` prints: settings and versions, the numbers, and how to read them.

    ``results``: a row for each number, with ``model``, ``kind``, ``policy``, ``nfe``, ``metric``, ``value``, ``images``
    and, where they apply, the interval ``low`` to ``high`` and the protocol. ``trajectory``: velocity errors by time of
    each model. ``report``, ``numbers`` and the plots: the files that were written.
    """

    students: list[str]
    images: Path | None
    metrics: str
    protocol: str
    device: str
    processes: int
    versions: dict[str, str]
    results: list[dict[str, Any]]
    trajectory: dict[str, list[dict[str, float]]]
    notes: list[str]
    report: Path
    numbers: Path
    quality: Path
    error: Path
    samples: Path
    statistics: Path
    seconds: float
