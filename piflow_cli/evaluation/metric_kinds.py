"""The table of metrics: one row each; the function is imported when it is asked for. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable

from ..packages import outside_names, outside_row
from .metric_row import (
    CLASSES,
    COSTS,
    EACH,
    FEATURES,
    FINE,
    OWN_TEACHER,
    PATCHES,
    PROMPTS,
    REFERENCE,
    STUDENT,
    VIDEOS,
    MetricKind,
    Number,
)

# Other packages list theirs under this entry point: name = "module:ROW".
ENTRY_POINT = "piflow.metrics"
_METRICS = "piflow_cli.evaluation.metrics"
ROWS = {
    row.name: row
    for row in (
        MetricKind(
            "fid",
            f"{_METRICS}.fid:fid",
            (Number("fid", "FID", "Frechet distance of features", "lower", drawn=True),),
            frozenset({FEATURES, REFERENCE}),
            "quick",
        ),
        MetricKind(
            "kid",
            f"{_METRICS}.kid:kid",
            (Number("kid", "KID", "kernel distance of features", "lower", drawn=True),),
            frozenset({FEATURES, REFERENCE, EACH}),
            "full",
            package=("cleanfid", 'pip install "piflow[eval]"'),
        ),
        MetricKind(
            "is",
            f"{_METRICS}.inception_score:inception_scores",
            (Number("is", "IS", "Inception score", "higher"),),
            frozenset({FEATURES, EACH, CLASSES}),
            "full",
            fewest=10,  # one for each of its splits
        ),
        MetricKind(
            "pr",
            f"{_METRICS}.precision_recall:precision_and_recall",
            (
                Number("precision", "precision", "share of pictures inside the reference's manifold", "higher"),
                Number("recall", "recall", "share of the reference inside the pictures' manifold", "higher"),
            ),
            frozenset({FEATURES, REFERENCE, EACH}),
            "standard",
            fewest=4,  # a picture and its three neighbours
        ),
        MetricKind(
            "patch-fid",
            f"{_METRICS}.fid:patch_fid",
            (
                Number(
                    "patch-fid",
                    "patch FID",
                    "Frechet distance of features of centre crops at full resolution",
                    "lower",
                    drawn=True,
                ),
            ),
            frozenset({FEATURES, REFERENCE, PATCHES}),
        ),
        MetricKind(
            "clip",
            f"{_METRICS}.clip_score:clip_scores",
            (Number("clip", "CLIP", "CLIP score of pictures and their prompts", "higher", drawn=True),),
            frozenset({STUDENT, PROMPTS}),
            extractor=f"{_METRICS}.clip_score:open_clip",
            option="--clip",
        ),
        MetricKind(
            "alignment",
            f"{_METRICS}.alignment:alignments",
            (
                Number(
                    "mse",
                    "MSE",
                    "squared distance to the teacher's fine solution of the same noise, per number of the state",
                    "lower",
                    drawn=True,
                ),
                Number(
                    "psnr",
                    "PSNR",
                    "dB, of pictures against those of the teacher's fine solution of the same noise",
                    "higher",
                    unit="dB",
                ),
                Number(
                    "lpips",
                    "LPIPS",
                    "perceptual distance to the teacher's fine solution of the same noise",
                    "lower",
                ),
            ),
            frozenset({STUDENT, OWN_TEACHER, FINE}),
            "quick",
        ),
        MetricKind(
            "temporal",
            f"{_METRICS}.temporal:temporal_errors",
            (
                Number(
                    "temporal-error",
                    "temporal error",
                    "of videos: root mean square of the change from frame to frame minus that of the teacher's fine"
                    " solution of the same noise, over the latter's own",
                    "lower",
                    drawn=True,
                ),
                Number(
                    "frame-error",
                    "frame error",
                    "of videos: root mean square of frames minus those of the teacher's fine solution of the same"
                    " noise, over the latter's own",
                    "lower",
                ),
            ),
            frozenset({STUDENT, OWN_TEACHER, FINE, VIDEOS}),
            "quick",
            refuse=f"{_METRICS}.temporal:refuse",
        ),
        MetricKind(
            "squeezenet",
            f"{_METRICS}.squeezenet:squeezenet_distances",
            (
                Number(
                    "squeezenet",
                    "SqueezeNet",
                    "distance of SqueezeNet's layers to the teacher's fine solution of the same noise, as LPIPS without"
                    " its learned weights",
                    "lower",
                ),
            ),
            frozenset({STUDENT, OWN_TEACHER, FINE}),
            refuse=f"{_METRICS}.squeezenet:refuse",
        ),
        MetricKind(
            "diversity",
            f"{_METRICS}.diversity:diversities",
            (
                Number(
                    "diversity",
                    "diversity",
                    "mean distance of features of two pictures of one label or prompt, over the teacher's; 1 is as"
                    " diverse",
                ),
            ),
            frozenset({STUDENT, FEATURES, OWN_TEACHER, FINE}),
            "standard",
            refuse=f"{_METRICS}.diversity:refuse",
        ),
        MetricKind(
            "trajectory",
            f"{_METRICS}.trajectory:trajectories",
            (
                Number(
                    "velocity-error",
                    "velocity error",
                    "mean square of policy minus teacher velocity on the student's own path, over the teacher's",
                    "lower",
                ),
            ),
            frozenset({STUDENT, OWN_TEACHER}),
            "standard",
        ),
        MetricKind(
            "speed",
            f"{_METRICS}.speed:speeds",
            (
                Number("network-ms", "network ms", "of one evaluation of a batch; of a teacher with its guidance"),
                Number("policy-ms", "policy ms", "of following one evaluation's policy, for a batch"),
                Number("images-per-second", "images/s", "from noise to states, without features and files", "higher"),
            ),
            frozenset({STUDENT}),
            "quick",
        ),
    )
}

# The number that stands for a student in a list of them.
HEADLINE = "fid"


def metric_names() -> tuple[str, ...]:
    """The names of all metrics, ours first."""
    return (*ROWS, *(name for name in outside_names(ENTRY_POINT) if name not in ROWS))


def metric_kind(name: str) -> MetricKind:
    """The row called ``name``; raises KeyError where there is none."""
    return ROWS[name] if name in ROWS else outside_row(ENTRY_POINT, name, MetricKind)


def metric_kinds() -> tuple[MetricKind, ...]:
    """All rows, ours first."""
    return tuple(metric_kind(name) for name in metric_names())


def usual(protocol: str | None, kinds: Iterable[MetricKind] | None = None, *, videos: bool = False) -> tuple[str, ...]:
    """The metrics that are measured where none is named, of all or of ``kinds``.

    ``protocol``: quick, full, or None for neither. ``videos``: with those that pictures cannot have.
    """
    most = COSTS.index("standard" if protocol is None else protocol)
    return tuple(
        kind.name
        for kind in (metric_kinds() if kinds is None else kinds)
        if COSTS.index(kind.cost) <= most and (videos or VIDEOS not in kind.needs)
    )


def usual_of_folders(protocol: str | None) -> tuple[str, ...]:
    """What is measured of pictures alone where nothing is named: at no cost of making them, all but patches."""
    known = needing(without={STUDENT, PATCHES})
    return tuple(name for name in usual("full" if protocol is None else protocol) if name in known)


def needing(*needs: str, without: Iterable[str] = ()) -> tuple[str, ...]:
    """The metrics that need all of ``needs`` and none of ``without``."""
    return tuple(
        kind.name for kind in metric_kinds() if kind.needs.issuperset(needs) and kind.needs.isdisjoint(without)
    )


def spoken_names() -> dict[str, MetricKind]:
    """Metrics by all that they are called, in small letters: their own names, and those and the titles of numbers."""
    kinds = metric_kinds()
    numbers = {name.lower(): kind for kind in kinds for one in kind.numbers for name in (one.name, one.title)}
    return numbers | {kind.name: kind for kind in kinds}


def metric_numbers() -> dict[str, Number]:
    """Every number that some metric gives, by its name, in the order of columns."""
    return {number.name: number for kind in metric_kinds() for number in kind.numbers}
