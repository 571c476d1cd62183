"""Data of a run before any encoder has seen them: texts and pictures, their buckets and their cache keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from accelerate.utils import gather_object
from PIL import Image

from ..errors import UsageError
from ..system.files import cache_folder, cache_key, replacing_file
from ..teachers.encoders import EMPTY, EncoderFactory
from ..weights.cache import Cache, ShardedCache
from ..weights.cache_kinds import IDENTITY, LATENTS, PICTURES, TEXTS
from ..weights.shards import remove_damaged
from ..wording import few
from .buckets import Size, buckets_of, cut, nearest_bucket
from .captioned import list_pictures
from .edits import list_edits
from .encoded import SampleKeys
from .picture import Picture
from .picture_index import PictureFacts, look_at
from .prompts import Prompt, read_prompts
from .sample_kinds import kind_of
from .videos import CLIP, too_short

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..console import Console
    from ..presets.schema import DataSection

CROP = "centre"
NAMES_SHOWN = 5
DAMAGED = "the cache shard {} was damaged; it is removed and made anew"
NO_CAPTION, UNREADABLE, TOO_SHORT = "without a caption", "unreadable", "too short"


class EncodedCache:
    """The caches of one model's texts and latents, below the folder that a preset names, and their keys."""

    def __init__(self, section: DataSection, factory: EncoderFactory) -> None:
        root = cache_folder(None if section.cache is None else Path(section.cache))
        self.identity, self.sees = dict(factory.identity), factory.sees
        self._clip = (
            {} if factory.frame_rate is None else {"frames": section.frames, "rate": factory.frame_rate, "clip": CLIP}
        )
        self.folder = root / cache_key(identity=self.identity)[:16]
        # Hashes and sizes of pictures do not depend on the model.
        self.pictures = Cache(root / PICTURES)
        self.texts, self.latents = ShardedCache(self.folder / TEXTS), ShardedCache(self.folder / LATENTS)

    def text_key(self, text: str, seen: tuple[str, Size] | None = None) -> str:
        """``seen``: the digest of the picture that the encoder is shown with the text, and what it is cut to."""
        picture = {} if seen is None else {"picture": seen[0], "size": seen[1], "crop": CROP}
        return cache_key(identity=self.identity, text=text, **picture)

    def latents_key(self, sha256: str, size: Size) -> str:
        return cache_key(identity=self.identity, file=sha256, size=size, crop=CROP, **self._clip)

    def scan(self, console: Console) -> None:
        """Read which entries there are; damaged shards are dropped and named."""
        for path in [*self.texts.scan(), *self.latents.scan()]:
            console.warn(DAMAGED.format(path))

    def check(
        self, texts: Collection[str], latents: Collection[str], accelerator: Accelerator, console: Console
    ) -> None:
        """Drop the damaged ones of the shards that hold these entries, so that what was in them counts as missing.

        A run reads what it will train on once, before it starts: it costs seconds then, and the run hours later.
        Processes share the reading.
        """
        shards = [*self.texts.shards_with(texts), *self.latents.shards_with(latents)]
        share = [
            path
            for path in shards
            if crc32(path.name.encode()) % accelerator.num_processes == accelerator.process_index
        ]
        damaged = gather_object([str(path) for path in remove_damaged(share)])
        for path in damaged:
            console.warn(DAMAGED.format(path))
        if damaged:
            self.scan(console)

    def label(self) -> None:
        """Write for people which model the folder belongs to."""
        with replacing_file(self.folder / IDENTITY) as aside:
            aside.write_text(json.dumps(self.identity, indent=2) + "\n")


@dataclass(frozen=True)
class TextToEncode:
    """A text before it is encoded, and where the encoder sees too, the picture and what it is cut to.

    ``reference``: the key of that picture's latents.
    """

    text: str
    picture: Picture | None = None
    size: Size | None = None
    reference: str | None = None

    def seen(self) -> Image.Image | None:
        """The picture as it is cut; raises Unreadable or OSError where there is one and it cannot be read."""
        if self.picture is None or self.size is None:
            return None
        return cut(self.picture.open(), self.size)


@dataclass(frozen=True)
class ItemToEncode:
    """One sample before it is encoded."""

    text: str
    sample: SampleKeys
    picture: Picture | None = None
    reference: Picture | None = None
    reference_size: Size | None = None

    @property
    def pictures(self) -> dict[str, Picture]:
        """The pictures that are encoded, by the keys of their latents."""
        own = ((self.sample.latents, self.picture), (self.sample.reference, self.reference))
        return {key: picture for key, picture in own if key is not None and picture is not None}

    def places(self, size: Size) -> dict[str, tuple[Size, Picture]]:
        """The same with what each is cut to; ``size``: the bucket of the sample."""
        sizes = {} if self.reference_size is None else {self.sample.reference: self.reference_size}
        return {key: (sizes.get(key, size), picture) for key, picture in self.pictures.items()}

    def told(self, size: Size) -> dict[str, TextToEncode]:
        """The texts that are encoded, by their keys; ``size``: the bucket of the sample."""
        if self.sample.empty is None:
            return {self.sample.text: TextToEncode(self.text)}
        seen = (self.reference, size, self.sample.reference)
        return {self.sample.text: TextToEncode(self.text, *seen), self.sample.empty: TextToEncode(EMPTY, *seen)}


@dataclass(frozen=True)
class SkippedPicture:
    """A picture or video that cannot be used: NO_CAPTION, UNREADABLE or TOO_SHORT, and what there is to say of it."""

    name: str
    why: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@dataclass(frozen=True)
class SamplesToEncode:
    """The samples of a source by size, and the pictures that cannot be used."""

    items: dict[Size, list[ItemToEncode]] = field(default_factory=dict)
    skipped: list[SkippedPicture] = field(default_factory=list)


def collect(section: DataSection, data_free: bool, factory: EncoderFactory, cache: EncodedCache) -> SamplesToEncode:
    """Read the prompts, or list the pictures, with their keys and buckets.

    A picture is in the nearest bucket, and so is a prompt with a size; every bucket takes all other prompts in turn.
    """
    sizes = buckets_of(section, factory.size_multiple)
    to_encode = SamplesToEncode()
    if section.prompts is not None:
        for prompt in training_prompts(section):
            item = ItemToEncode(prompt.text, SampleKeys(cache.text_key(prompt.text)))
            for size in sizes if prompt.size is None else [nearest_bucket(prompt.size, sizes)]:
                to_encode.items.setdefault(size, []).append(item)
        return to_encode
    if factory.shown:
        _collect_edits(section, data_free, factory, cache, sizes, to_encode)
        return to_encode
    pictures = list_pictures(section)
    for picture, seen in zip(pictures, look_at(pictures, cache.pictures, kind_of(section))):
        if not isinstance(seen, PictureFacts):
            to_encode.skipped.append(SkippedPicture(picture.name, UNREADABLE, str(seen)))
            continue
        if why := _too_short(seen, section, factory):
            to_encode.skipped.append(SkippedPicture(picture.name, TOO_SHORT, why))
            continue
        size = nearest_bucket(seen.size, sizes)
        if picture.caption is None:
            to_encode.skipped.append(SkippedPicture(picture.name, NO_CAPTION))
            continue
        sample = SampleKeys(
            cache.text_key(picture.caption), None if data_free else cache.latents_key(seen.sha256, size)
        )
        to_encode.items.setdefault(size, []).append(ItemToEncode(picture.caption, sample, picture))
    return to_encode


def _too_short(seen: PictureFacts, section: DataSection, factory: EncoderFactory) -> str | None:
    """How long a video is, and has to be, where that is too short."""
    frames, rate = section.frames, factory.frame_rate
    if seen.seconds is None or frames is None or rate is None or not too_short(seen.seconds, frames, rate):
        return None
    return f"{seen.seconds:.2f} s of {frames / rate:.2f} s"


def _collect_edits(
    section: DataSection,
    data_free: bool,
    factory: EncoderFactory,
    cache: EncodedCache,
    sizes: Sequence[Size],
    to_encode: SamplesToEncode,
) -> None:
    """List the edits; both pictures of one are cut to the bucket of the target, or of the reference where none is."""
    edits = list_edits(section, data_free)
    pictures = [picture for edit in edits for picture in (edit.reference, edit.target) if picture is not None]
    seen = dict(zip(map(id, pictures), look_at(pictures, cache.pictures)))
    for edit in edits:
        own = [picture for picture in (edit.reference, edit.target) if picture is not None]
        facts = [found for picture in own if isinstance(found := seen[id(picture)], PictureFacts)]
        if len(facts) < len(own):
            unread = next(picture for picture in own if not isinstance(seen[id(picture)], PictureFacts))
            to_encode.skipped.append(SkippedPicture(unread.name, UNREADABLE, str(seen[id(unread)])))
        elif edit.text is None:
            to_encode.skipped.append(SkippedPicture(edit.reference.name, NO_CAPTION))
        else:
            size = nearest_bucket(facts[-1].size, sizes)
            target = None if data_free or edit.target is None else cache.latents_key(facts[-1].sha256, size)
            shown_at = factory.reference_size(size)
            reference = cache.latents_key(facts[0].sha256, shown_at)
            beside = (facts[0].sha256, size) if factory.sees else None
            empty = None if beside is None else cache.text_key(EMPTY, beside)
            sample = SampleKeys(cache.text_key(edit.text, beside), target, reference, empty)
            item = ItemToEncode(edit.text, sample, edit.target, edit.reference, shown_at)
            to_encode.items.setdefault(size, []).append(item)


def training_prompts(section: DataSection) -> list[Prompt]:
    """The prompts of ``section``, as many as it allows.

    Raises UsageError with the numbers of prompts that give one side of their picture without the other.
    """
    if section.prompts is None:
        return []
    prompts = read_prompts(section.prompts, section.text_column, section.split)
    halves = [
        f"prompt {number}"
        for number, prompt in enumerate(prompts, 1)
        if (prompt.width is None) != (prompt.height is None)
    ]
    if halves:
        raise UsageError(
            f"{section.prompts}: {len(halves)} of {len(prompts)} prompts have a width or a height alone"
            f" ({few(halves, NAMES_SHOWN)})",
            "give both, which choose the bucket, or neither",
        )
    return prompts[: section.limit]


def summary(skipped: Sequence[SkippedPicture]) -> str:
    """How many pictures are skipped for each reason, and the names of the first."""
    groups: dict[str, list[str]] = {}
    for one in skipped:
        groups.setdefault(one.why, []).append(str(one))
    return ", ".join(f"{len(names)} {why} ({few(names, NAMES_SHOWN)})" for why, names in groups.items())
