"""The training data of a preset, and what the plan says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..encoders import EncoderFactory
from ..errors import UsageError
from ..labelled_images import load_images
from ..prompts import read_prompts
from ..teachers.base import ClassConditionalFamily, Conditioning, TeacherFamily, guidance_of
from ..teachers.locate import locate, outline_folder
from .buckets import buckets_of
from .captioned import list_pictures
from .data import LabelledImages, TrainingData, UniformLabels
from .encoding import open_encoded
from .material import EMPTY, Store

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..console import Console
    from ..preset_schema import Preset

SIZES_SHOWN = 4


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
    if section.source is None:
        raise UsageError("nothing to train on is given", "add --prompts FILE for training without pictures, or --data FOLDER")
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


def describe_data(preset: Preset, family: TeacherFamily) -> dict[str, str]:
    """What will be trained on, in words; reads local files but no picture, and nothing of the Hub."""
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
    return {**_describe_texts(preset, factory), "sizes": shown}


def _describe_texts(preset: Preset, factory: EncoderFactory) -> dict[str, str]:
    section, store = preset.data, Store(preset.data, factory)
    what, source = ("prompts", section.prompts) if section.prompts is not None else ("captioned pictures", section.captioned)
    if not Path(source).exists() and not source.startswith("preset:"):
        return {"source": f"{what} of {source}, not looked at before the run", "cache": str(store.folder)}
    if section.prompts is not None:
        texts = [prompt.text for prompt in read_prompts(source, section.text_column, section.split)]
        found = len(texts)
    else:
        pictures = list_pictures(section)
        texts, found = [picture.caption for picture in pictures if picture.caption is not None], len(pictures)
    store.texts.scan()
    wanted = {store.text_key(text) for text in (*texts, EMPTY)}
    cached = sum(key in store.texts for key in wanted)
    return {"source": f"{found} {what} of {source}", "cache": f"{store.folder}, {cached} of {len(wanted)} texts encoded"}
