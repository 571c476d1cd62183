"""The options of the functions of the door, by keyword, as the commands share them.

A function takes them as ``**options: Unpack[...]``, for type checkers; :func:`~piflow_cli.door.calls.public` writes
them into its signature, with the defaults of its request, for help() and editors.
"""

from __future__ import annotations

from typing import TypedDict

from .arguments import (
    BasePrecision,
    FileOrFolder,
    Loras,
    Number,
    Offload,
    Source,
    Sources,
    Switch,
    Temperature,
    Texts,
    Whole,
    Wholes,
    Word,
)


class StudentOptions(TypedDict, total=False):
    """Options that say where a student, and what it was distilled from, are found."""

    teacher: Source | None
    base: Source | None
    subfolder: Word | None


class PictureOptions(StudentOptions, total=False):
    """Options that say which pictures are made."""

    seeds: Wholes | None
    labels: Wholes | None
    prompts_from: Source | None
    text_column: Word | None
    height: Whole | None
    width: Whole | None
    frames: Whole | None


class SampleOptions(PictureOptions, total=False):
    """Options of :func:`piflow_cli.sample`."""

    steps: Whole | None
    shift: Number | None
    substeps: Whole | None
    temperature: Temperature | None
    stochastic: Number
    guidance: Number | None
    mp4: Switch | None
    vae: Source | None
    references: Sources
    loras: Loras
    base_precision: BasePrecision | None
    offload: Offload
    compile: Switch
    batch_size: Whole | None
    overwrite: Switch


class EvalOptions(PictureOptions, total=False):
    """Options of :func:`piflow_cli.evaluate`."""

    metrics: Texts | None
    reference: Source | None
    images: FileOrFolder | None
    protocol: Word | None
    num_images: Whole | None
    steps: Wholes
    substeps: Whole | None
    temperature: Temperature | None
    teacher_steps: Wholes
    fine_steps: Whole | None
    extractors: Sources
    inception_weights: FileOrFolder | None
    trust_weights: Switch
    clip: Source | None
    batch_size: Whole | None
    cache: FileOrFolder | None
    save_images: Switch
    save_statistics: FileOrFolder | None
    overwrite: Switch


class InspectOptions(PictureOptions, total=False):
    """Options of :func:`piflow_cli.inspect`."""

    at: Whole
    vae: Source | None
    base_precision: BasePrecision | None
    overwrite: Switch


class ExportOptions(StudentOptions, total=False):
    """Options of :func:`piflow_cli.export`."""

    dtype: Word | None
    rank: Whole | None
    quantise: Word | None
    with_base: Switch
    prompts: Texts
    changed: Switch
    push_to_hub: Word | None
    private: Switch
    overwrite: Switch
