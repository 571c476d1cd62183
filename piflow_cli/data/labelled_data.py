"""What class-conditional teachers are imitated on: pixels in memory, or latents that a VAE
has made of pictures or that were given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..errors import UsageError
from ..presets.folders import SHIPPED_PREFIX
from ..presets.places import expanded
from ..teachers.base import ClassConditionalFamily, Conditioning
from ..teachers.encoders import EncoderFactory
from ..teachers.folders import outline_folder
from ..teachers.latents import vae_encoders
from ..weights.cache import ShardedCache
from ..weights.locate import hub_id, locate
from .batches import Batch, LabelledImages, TrainingData, batch_indices, draw_latents
from .buckets import Size, centre_crop
from .collect import UNREADABLE, Skipped, Store, summary
from .encode import Missing, counted, encode_pictures, lacking
from .labelled import list_labelled
from .labelled_images import StoredLatents, holds_latents, load_images, open_latents
from .picture import Picture
from .picture_index import Seen, look_at

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..console import Console
    from ..presets.schema import Preset

NO_LABEL = "without a label"
NAME_DATA = "name labelled pictures or latents: --data DIR"

Condition = Callable[[Sequence[int]], Conditioning]


class Posteriors(Protocol):
    """Latents that are known by mean and standard deviation, and ``labels`` (N,) int64 of them."""

    @property
    def labels(self) -> Tensor: ...

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation (B, C, h, w) of the latents in ``rows``
        (B,); None where they are drawn already."""

    def fingerprint(self) -> str:
        """A hash of everything that shapes them."""


@dataclass(frozen=True)
class CachedLatents:
    """Latents in the cache, by their keys."""

    keys: Sequence[str]
    labels: Tensor
    cache: ShardedCache

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        entries = [self.cache[self.keys[row]] for row in rows.tolist()]
        return torch.stack([entry["mean"] for entry in entries]), torch.stack([entry["std"] for entry in entries])

    def fingerprint(self) -> str:
        # Keys are hashes of everything that shapes an entry.
        return hashlib.sha256("".join(self.keys).encode() + self.labels.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class LabelledLatents:
    """Latents (N, C, h, w), of which a batch is drawn anew at each visit, and what a family makes of their labels."""

    latents: Posteriors
    fingerprint: str
    condition: Condition

    def batch(self, seed: int, place: int, size: int) -> Batch:
        chosen = batch_indices(len(self.latents.labels), seed, place * size, size)
        mean, std = self.latents.read(chosen)
        x_0 = mean if std is None else draw_latents(mean, std, seed, place)
        return Batch(tuple(x_0.shape), self.condition(self.latents.labels[chosen].tolist()), x_0)


def place_of(images: str) -> Path:
    """Where `data.images` is; raises UsageError where there is nothing. Only a file
    that is shipped or on the Hub is fetched."""
    path = expanded(images)
    if images.startswith(SHIPPED_PREFIX) or (not path.exists() and hub_id(images) is not None):
        return locate(images, option="--data DIR")
    if not path.exists():
        raise UsageError(f"there are no pictures at {images}", NAME_DATA)
    if path.is_file() and path.suffix not in (".safetensors", ".tar"):
        raise UsageError(f"{images} is neither a .safetensors file nor a .tar shard", NAME_DATA)
    return path


def open_labelled(
    preset: Preset, family: ClassConditionalFamily, condition: Condition, accelerator: Accelerator, console: Console
) -> TrainingData:
    """The labelled pictures or latents of ``preset.data.images``; pictures go through the
    VAE of the teacher, if it has one, once.

    Raises UsageError where there are none, or none that the teacher could have been trained on.
    """
    path = place_of(str(preset.data.images))
    # The teacher is not in memory yet.
    outline = family.outline(outline_folder(family, preset.teacher))
    shape, classes = family.sample_shape(outline), family.class_count(outline)
    if path.suffix == ".safetensors" and holds_latents(path):
        return _stored(open_latents(path), shape, classes, condition)
    if preset.teacher.vae is None:
        return _pixels(path, shape, classes, condition)
    factory = vae_encoders(preset.teacher.vae, shape[0])
    latents = _encoded(preset, list_labelled(path, classes), shape, factory, accelerator, console)
    return LabelledLatents(latents, latents.fingerprint(), condition)


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
    store = Store(preset.data, factory)
    size = (shape[2] * factory.downsampling, shape[1] * factory.downsampling)
    labels, wanted, skipped = _keyed(pictures, store, size)
    store.scan(console)
    store.check((), wanted, accelerator, console)
    missing = Missing({}, {key: (size, picture) for key, picture in wanted.items() if key not in store.latents})
    console.say(counted("latents", store.latents, len(wanted), len(missing.pictures)))
    failed: dict[str, str] = {}
    if missing.pictures:
        if accelerator.is_main_process:
            store.label()
        with ExitStack() as stack:
            encoder = cache(lambda: stack.enter_context(closing(factory.open(accelerator.device, False))))
            share = missing.share(accelerator).pictures
            failed = encode_pictures(
                encoder, share, store.latents, console, lambda picture, size: centre_crop(picture, size[0])
            )
    # Gathering is also the wait for all processes, so none may leave it out; the second scan finds what they wrote.
    failed = dict(gather_object(list(failed.items())))
    if missing.pictures:
        store.scan(console)
    skipped += [Skipped(wanted[key].name, UNREADABLE, why) for key, why in failed.items()]
    keys = [(key, label) for key, label in labels if key not in failed]
    if absent := sum(key not in store.latents for key, _ in keys):
        raise lacking(store, absent)
    if not keys:
        raise UsageError(f"no picture of {preset.data.images} can be used: {summary(skipped)}", NAME_DATA)
    if skipped:
        console.warn(f"skipped {len(skipped)} of the pictures: {summary(skipped)}")
    return CachedLatents([key for key, _ in keys], torch.tensor([label for _, label in keys]), store.latents)


def _keyed(
    pictures: Sequence[Picture], store: Store, size: Size
) -> tuple[list[tuple[str, int]], dict[str, Picture], list[Skipped]]:
    """Key and label of each picture, a picture for each key, and those that cannot be used."""
    labels, wanted, skipped = [], {}, []
    for picture, seen in zip(pictures, look_at(pictures, store.pictures)):
        if not isinstance(seen, Seen):
            skipped.append(Skipped(picture.name, UNREADABLE, str(seen)))
        elif picture.caption is None:
            skipped.append(Skipped(picture.name, NO_LABEL))
        else:
            key = store.latents_key(seen.sha256, size)
            labels.append((key, int(picture.caption)))
            wanted.setdefault(key, picture)
    return labels, wanted, skipped
