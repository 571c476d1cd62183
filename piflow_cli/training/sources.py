"""The training data of a preset, and what the plan says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..encoders import EncoderFactory
from ..errors import UsageError
from ..labelled_images import load_images
from ..tables import HUB_ID
from ..teachers.base import ClassConditionalFamily, Conditioning, TeacherFamily, guidance_of
from ..teachers.locate import locate, outline_folder
from .buckets import buckets_of
from .captioned import list_pictures
from .data import LabelledImages, TrainingData, UniformLabels
from .encoding import open_encoded
from .material import EMPTY, Store, training_prompts

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..console import Console
    from ..preset_schema import DataSection, Preset

SIZES_SHOWN = 4
FILE_SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet", ".tar")


@dataclass(frozen=True)
class LocalMaterial:
    """What a source on this machine holds: every text, and how many pictures with a caption."""

    texts: tuple[str, ...]
    pictures: int


def require_source(section: DataSection) -> None:
    """Raise UsageError where nothing is named to train on."""
    if section.source is None:
        raise UsageError("nothing to train on is given", "add --prompts FILE for training without pictures, or --data FOLDER")


def local_material(section: DataSection) -> LocalMaterial | None:
    """The prompts, or captions and number of pictures, of a source on this machine; no picture is read.

    None for classes, and for a data set of the Hub, which is not looked at before the run. Raises UsageError where the source
    is not there or faulty.
    """
    if section.prompts is None and section.captioned is None:
        return None
    source = section.captioned if section.prompts is None else section.prompts
    if HUB_ID.fullmatch(source) and not Path(source).exists() and not source.endswith(FILE_SUFFIXES):
        return None
    if section.prompts is not None:
        return LocalMaterial(tuple(prompt.text for prompt in training_prompts(section)), 0)
    captions = tuple(picture.caption for picture in list_pictures(section) if picture.caption is not None)
    return LocalMaterial(captions, len(captions))


def open_data(
    preset: Preset,
    family: TeacherFamily,
    condition: Callable[[Sequence[int]], Conditioning],
    accelerator: Accelerator,
    console: Console,
) -> TrainingData:
    """What ``preset.data`` names; texts and pictures go through the encoders of ``family`` first, labels through ``condition``.

    Raises UsageError where nothing is named, or nothing usable found.
    """
    section = preset.data
    require_source(section)
    if section.images is not None:
        return LabelledImages(*load_images(locate(section.images)), condition)
    if section.labels is not None:
        return _uniform_labels(preset, family, condition)
    negative = guidance_of(preset.teacher).scale != 1
    return open_encoded(section, preset.data_free, negative, family.encoders(preset.teacher), accelerator, console)


def _uniform_labels(preset: Preset, family: TeacherFamily, condition: Callable[[Sequence[int]], Conditioning]) -> UniformLabels:
    """All classes of the teacher, which is not in memory yet."""
    if not isinstance(family, ClassConditionalFamily):
        raise UsageError(f"data.labels is for teachers that are told a class, and {preset.name} is told a text", "give it --prompts FILE")
    teacher = family.outline(outline_folder(family, preset.teacher))
    return UniformLabels(family.class_count(teacher), family.sample_shape(teacher), condition)


def describe_data(preset: Preset, family: TeacherFamily, local: LocalMaterial | None) -> dict[str, str]:
    """What will be trained on, in words; ``local`` is what :func:`local_material` found."""
    section = preset.data
    if section.source is None:
        return {"source": "none yet: --prompts FILE or --data FOLDER"}
    if section.images is not None:
        return {"source": f"labelled images of {section.images}"}
    if section.labels is not None:
        return {"source": "every class equally often, no pictures"}
    factory = family.encoders(preset.teacher)
    sizes = [f"{width}x{height}" for width, height in buckets_of(section, factory.size_multiple)]
    shown = ", ".join(sizes if len(sizes) <= SIZES_SHOWN else [*sizes[:2], "...", f"{sizes[-1]} ({len(sizes)} buckets)"])
    return {**_describe_texts(section, factory, local), "sizes": shown}


def _describe_texts(section: DataSection, factory: EncoderFactory, local: LocalMaterial | None) -> dict[str, str]:
    store = Store(section, factory)
    what, source = ("prompts", section.prompts) if section.prompts is not None else ("captioned pictures", section.captioned)
    if local is None:
        return {"source": f"{what} of {source}, not looked at before the run", "cache": str(store.folder)}
    found = len(local.texts) if section.prompts is not None else local.pictures
    store.texts.scan()
    wanted = {store.text_key(text) for text in (*local.texts, EMPTY)}
    cached = sum(key in store.texts for key in wanted)
    return {"source": f"{found} {what} of {source}", "cache": f"{store.folder}, {cached} of {len(wanted)} texts encoded"}
