"""Data of class-conditional teachers: pixels in memory, or latents, given or encoded by a VAE."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..errors import UsageError
from ..teachers.base import Conditioning
from ..teachers.class_conditional import ClassConditionalFamily
from ..teachers.encoders import EncoderFactory
from ..teachers.folders import outline_folder
from ..teachers.latents import vae_encoders
from ..weights.cache import ShardedCache
from .batches import Batch, LabelledImages, TrainingData, batch_indices, draw_latents
from .buckets import Size, centre_crop
from .collect import UNREADABLE, EncodedCache, SkippedPicture, summary
from .encode import MissingEntries, counted, lacking
from .encode_pictures import encode_pictures
from .labelled import list_labelled
from .labelled_images import StoredLatents, holds_latents, load_images, open_latents
from .picture import Picture
from .picture_index import PictureFacts, look_at
from .places import NAME_DATA, labelled_place

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..console import Console
    from ..presets.schema import Preset

NO_LABEL = "without a label"

Condition = Callable[[Sequence[int]], Conditioning]


class Posteriors(Protocol):
    """Latents by mean and standard deviation, and ``labels`` (N,) int64."""

    @property
    def labels(self) -> Tensor: ...

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation (B, C, h, w) of ``rows`` (B,); the latter is None for drawn latents."""

    def fingerprint(self) -> str:
        """A hash of everything that shapes them."""


@dataclass(frozen=True)
class CachedLatents:
    """Latents in the cache, by their keys."""

    keys: Sequence[str]
    labels: Tensor
    cache: ShardedCache
    left_out: int

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        entries = [self.cache[self.keys[row]] for row in rows.tolist()]
        return torch.stack([entry["mean"] for entry in entries]), torch.stack([entry["std"] for entry in entries])

    def fingerprint(self) -> str:
        # Keys are hashes of everything that shapes an entry.
        return hashlib.sha256("".join(self.keys).encode() + self.labels.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class LabelledLatents:
    """Latents (N, C, h, w), drawn anew at each visit, with the family's ``condition`` of their labels."""

    latents: Posteriors
    fingerprint: str
    condition: Condition
    left_out: int = 0

    def batch(self, seed: int, place: int, size: int) -> Batch:
        chosen = batch_indices(len(self.latents.labels), seed, place * size, size)
        mean, std = self.latents.read(chosen)
        x_0 = mean if std is None else draw_latents(mean, std, seed, place)
        return Batch(tuple(x_0.shape), self.condition(self.latents.labels[chosen].tolist()), x_0)


def open_labelled(
    preset: Preset, family: ClassConditionalFamily, condition: Condition, accelerator: Accelerator, console: Console
) -> TrainingData:
    """The labelled pictures or latents of ``preset.data.images``; the teacher's VAE encodes pictures once.

    Raises UsageError where there are none, or none that the teacher could have been trained on.
    """
    path = labelled_place(str(preset.data.images))
    # The teacher is not in memory yet.
    outline = family.outline(outline_folder(family, preset.teacher))
    shape, classes = family.sample_shape(outline), family.class_count(outline)
    if path.suffix == ".safetensors" and holds_latents(path):
        return _stored(open_latents(path), shape, classes, condition)
    if preset.teacher.vae is None:
        return _pixels(path, shape, classes, condition)
    factory = vae_encoders(preset.teacher.vae, shape[0])
    latents = _encoded(preset, list_labelled(path, classes), shape, factory, accelerator, console)
    return LabelledLatents(latents, latents.fingerprint(), condition, latents.left_out)


def _stored(latents: StoredLatents, shape: tuple[int, ...], classes: int, condition: Condition) -> LabelledLatents:
    if latents.shape != shape:
        raise UsageError(
            f"{latents.path} holds latents of {latents.shape}, and the teacher's states are {shape}", NAME_DATA
        )
    _refuse_strange(latents.path, latents.labels, classes)
    return LabelledLatents(latents, latents.fingerprint(), condition)


def _pixels(path: Path, shape: tuple[int, ...], classes: int, condition: Condition) -> LabelledImages:
    if path.suffix != ".safetensors":
        hint = "write images and labels: --data FILE.safetensors"
        raise UsageError(f"{path} is no safetensors file, and the teacher is one of pixels", hint)
    images, labels = load_images(path)
    if images.shape[1:] != shape:
        raise UsageError(
            f"{path} holds pictures of {tuple(images.shape[1:])}, and the teacher's are {shape}", NAME_DATA
        )
    _refuse_strange(path, labels, classes)
    return LabelledImages(images, labels, condition)


def _refuse_strange(path: Path, labels: Tensor, classes: int) -> None:
    wrong = (labels >= classes).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        what = f"row {row} has the label {int(labels[row])}, and the teacher knows the classes 0 to {classes - 1}"
        raise UsageError(f"{path}: {what}", NAME_DATA)


def _encoded(
    preset: Preset,
    pictures: Sequence[Picture],
    shape: tuple[int, ...],
    factory: EncoderFactory,
    accelerator: Accelerator,
    console: Console,
) -> CachedLatents:
    """The latents of ``pictures``, encoded as far as the cache lacks them; processes share the work."""
    cache = EncodedCache(preset.data, factory)
    size = (shape[2] * factory.downsampling, shape[1] * factory.downsampling)
    labels, wanted, skipped = _keyed(pictures, cache, size)
    cache.scan(console)
    cache.check((), wanted, accelerator, console)
    missing = MissingEntries({}, {key: (size, picture) for key, picture in wanted.items() if key not in cache.latents})
    console.say(counted("latents", cache.latents, len(wanted), len(missing.pictures)))
    failed: dict[str, str] = {}
    if missing.pictures:
        if accelerator.is_main_process:
            cache.label()
        with ExitStack() as stack:
            encoder = functools.cache(lambda: stack.enter_context(closing(factory.open(accelerator.device, False))))
            share = missing.share(accelerator).pictures
            failed = encode_pictures(
                encoder, share, cache.latents, console, lambda picture, size: centre_crop(picture.open(), size[0])
            )
    # Gathering is also the wait for all processes, so none may leave it out; the second scan finds what they wrote.
    failed = dict(gather_object(list(failed.items())))
    if missing.pictures:
        cache.scan(console)
    skipped += [SkippedPicture(wanted[key].name, UNREADABLE, why) for key, why in failed.items()]
    keys = [(key, label) for key, label in labels if key not in failed]
    if absent := sum(key not in cache.latents for key, _ in keys):
        raise lacking(cache, absent)
    if not keys:
        raise UsageError(f"no picture of {preset.data.images} can be used: {summary(skipped)}", NAME_DATA)
    if skipped:
        console.warn(f"skipped {len(skipped)} of the pictures: {summary(skipped)}")
    chosen = torch.tensor([label for _, label in keys])
    return CachedLatents([key for key, _ in keys], chosen, cache.latents, len(skipped))


def _keyed(
    pictures: Sequence[Picture], cache: EncodedCache, size: Size
) -> tuple[list[tuple[str, int]], dict[str, Picture], list[SkippedPicture]]:
    """Key and label of each picture, a picture for each key, and those that cannot be used."""
    labels, wanted, skipped = [], {}, []
    for picture, seen in zip(pictures, look_at(pictures, cache.pictures)):
        if not isinstance(seen, PictureFacts):
            skipped.append(SkippedPicture(picture.name, UNREADABLE, str(seen)))
        elif picture.caption is None:
            skipped.append(SkippedPicture(picture.name, NO_LABEL))
        else:
            key = cache.latents_key(seen.sha256, size)
            labels.append((key, int(picture.caption)))
            wanted.setdefault(key, picture)
    return labels, wanted, skipped
