"""The training data of a preset, and their lines in the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..presets.families import CLASS, conditioning_of
from ..presets.places import PROMPT_FILES, expanded
from ..system.files import user_cache
from ..teachers.base import Conditioning, TeacherFamily, guidance_of
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.encoders import EMPTY, EncoderFactory
from ..teachers.folders import outline_folder
from .batches import TrainingData, UniformLabels
from .buckets import buckets_of
from .captioned import list_pictures
from .collect import EncodedCache, training_prompts
from .edits import list_edits
from .encode import open_encoded
from .labelled_data import open_labelled
from .labelled_images import holds_latents
from .places import labelled_place
from .rows import names_dataset
from .sample_kinds import OF_PICTURES, kind_of

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..console import Console
    from ..presets.schema import DataSection, Preset

SIZES_SHOWN = 4
FILE_SUFFIXES = (*PROMPT_FILES, ".tar")


@dataclass(frozen=True)
class LocalSamples:
    """The samples of a source on this machine: every text, and the number of pictures with a caption."""

    texts: tuple[str, ...]
    pictures: int


def require_source(preset: Preset) -> None:
    """Raise UsageError where nothing is named to train on."""
    if preset.data.source is not None:
        return
    if conditioning_of(preset.teacher.family) == CLASS:
        raise UsageError(
            f"{preset.name} is trained on labelled pictures, and none are given",
            "name the folder of ImageNet's training pictures, or of others of the teacher's classes: --data DIR",
        )
    raise UsageError(
        "nothing to train on is given", "add --prompts FILE for training without pictures, or --data FOLDER"
    )


def local_samples(section: DataSection, shown: bool = False, data_free: bool = True) -> LocalSamples | None:
    """The prompts, or captions and number of pictures, of a source on this machine; no picture is read.

    ``shown``: they are edits, for teachers that are shown a reference; unless ``data_free`` each needs a target.

    None for classes, and for a data set of the Hub, which is not read before the run. Raises UsageError where the
    source is not there or faulty.
    """
    if section.images is not None:
        labelled_place(section.images)
    source = section.captioned if section.prompts is None else section.prompts
    if source is None:
        return None
    on_hub = names_dataset(source) and not Path(source).exists() and not source.endswith(FILE_SUFFIXES)
    # Videos are not read from there, and that is said before the run.
    if on_hub and (section.prompts is not None or kind_of(section) is OF_PICTURES):
        return None
    if section.prompts is not None:
        return LocalSamples(tuple(prompt.text for prompt in training_prompts(section)), 0)
    if shown:
        told = tuple(edit.text for edit in list_edits(section, data_free) if edit.text is not None)
        return LocalSamples(told, len(told))
    captions = tuple(picture.caption for picture in list_pictures(section) if picture.caption is not None)
    return LocalSamples(captions, len(captions))


def open_data(
    preset: Preset,
    family: TeacherFamily,
    condition: Callable[[Sequence[int]], Conditioning],
    accelerator: Accelerator,
    console: Console,
) -> TrainingData:
    """The data that ``preset.data`` names.

    Texts and pictures go through the encoders of ``family`` first, labels through ``condition``.

    Raises UsageError where nothing is named, or nothing usable found.
    """
    section = preset.data
    require_source(preset)
    if section.images is not None:
        return open_labelled(preset, _told_a_class(preset, family, "images"), condition, accelerator, console)
    if section.labels is not None:
        return _uniform_labels(preset, family, condition)
    negative = guidance_of(preset.teacher).scale != 1
    return open_encoded(section, preset.data_free, negative, family.encoders(preset.teacher), accelerator, console)


def _uniform_labels(
    preset: Preset, family: TeacherFamily, condition: Callable[[Sequence[int]], Conditioning]
) -> UniformLabels:
    """All classes of the teacher, which is not in memory yet."""
    family = _told_a_class(preset, family, "labels")
    teacher = family.outline(outline_folder(family, preset.teacher))
    return UniformLabels(family.class_count(teacher), family.sample_shape(teacher), condition)


def _told_a_class(preset: Preset, family: TeacherFamily, source: str) -> ClassConditionalFamily:
    if not isinstance(family, ClassConditionalFamily):
        raise UsageError(
            f"data.{source} is for teachers that are told a class, and {preset.name} is told a text",
            "give it --prompts FILE",
        )
    return family


def describe_data(preset: Preset, family: TeacherFamily, local: LocalSamples | None) -> dict[str, str]:
    """The training data in words; ``local``: the result of :func:`local_samples`."""
    section = preset.data
    if section.source is None:
        return {"source": "none yet: --prompts FILE or --data FOLDER"}
    if section.images is not None:
        return {"source": f"labelled images of {section.images}", **_describe_latents(preset)}
    if section.labels is not None:
        return {"source": "every class equally often, no pictures"}
    factory = family.encoders(preset.teacher)
    sizes = [f"{width}x{height}" for width, height in buckets_of(section, factory.size_multiple)]
    shown = ", ".join(
        sizes if len(sizes) <= SIZES_SHOWN else [*sizes[:2], "...", f"{sizes[-1]} ({len(sizes)} buckets)"]
    )
    return {**_describe_texts(section, factory, local), "sizes": shown}


def _describe_latents(preset: Preset) -> dict[str, str]:
    """The cache of pictures that will be encoded; nothing where they are latents or pixels already."""
    path = expanded(str(preset.data.images))
    if preset.teacher.vae is None or not path.exists() or (path.suffix == ".safetensors" and holds_latents(path)):
        return {}
    root = user_cache(None if preset.data.cache is None else Path(preset.data.cache))
    return {"latents": f"drawn from the posteriors of {preset.teacher.vae}, kept in {root}"}


def _describe_texts(section: DataSection, factory: EncoderFactory, local: LocalSamples | None) -> dict[str, str]:
    cache = EncodedCache(section, factory)
    pictures = "edits" if factory.shown else f"captioned {kind_of(section).names}"
    what, source = ("prompts", section.prompts) if section.prompts is not None else (pictures, section.captioned)
    if local is None:
        return {"source": f"{what} of {source}, not looked at before the run", "cache": str(cache.folder)}
    found = len(local.texts) if section.prompts is not None else local.pictures
    if factory.sees:
        # Keys of texts have those of pictures in them, which no plan reads.
        return {"source": f"{found} {what} of {source}", "cache": str(cache.folder)}
    cache.texts.scan()
    wanted = {cache.text_key(text) for text in (*local.texts, EMPTY)}
    cached = sum(key in cache.texts for key in wanted)
    return {
        "source": f"{found} {what} of {source}",
        "cache": f"{cache.folder}, {cached} of {len(wanted)} texts encoded",
    }
