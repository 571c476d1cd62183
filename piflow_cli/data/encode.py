"""Encoding what the cache lacks: texts and pictures through the teacher's encoders, once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image

from ..errors import RunError, UsageError
from ..teachers.encoders import EMPTY, EncoderFactory, Encoders
from ..teachers.long_texts import told_of
from ..weights.cache import ShardedCache
from .buckets import Size
from .collect import (
    UNREADABLE,
    EncodedCache,
    SamplesToEncode,
    SkippedPicture,
    TextToEncode,
    collect,
    summary,
)
from .encode_pictures import cut_of, encode_pictures
from .encoded import Bucket, EncodedData, SampleKeys
from .picture import Picture
from .pictures import Unreadable
from .sample_kinds import kind_of

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import DataSection

TEXTS_AT_ONCE = 16


@dataclass(frozen=True)
class MissingEntries:
    """Entries that the cache lacks, by key; of pictures with the same content one is enough."""

    texts: Mapping[str, TextToEncode]
    pictures: Mapping[str, tuple[Size, Picture]]

    def share(self, accelerator: Accelerator) -> MissingEntries:
        """The part of this process.

        It is decided key by key, since a process that looks later may miss less than the others did.
        """

        def ours(key: str) -> bool:
            return int(key, 16) % accelerator.num_processes == accelerator.process_index

        return MissingEntries(
            {key: text for key, text in self.texts.items() if ours(key)},
            {key: place for key, place in self.pictures.items() if ours(key)},
        )


def open_encoded(
    section: DataSection,
    data_free: bool,
    negative: bool,
    factory: EncoderFactory,
    accelerator: Accelerator,
    console: Console,
) -> EncodedData:
    """The training data of ``section.prompts`` or ``section.captioned``, encoded as far as the cache lacks them.

    The encoders are opened only if something is missing, and closed before this returns; processes share the work.
    ``negative``: the empty prompt rides in every batch. Raises UsageError where nothing usable is found.
    """
    cache = EncodedCache(section, factory)
    to_encode = collect(section, data_free, factory, cache)
    cache.scan(console)
    missing = find_missing(to_encode, cache, accelerator, console)
    failed: dict[str, str] = {}
    if missing.texts or missing.pictures:
        if accelerator.is_main_process:
            cache.label()
        share = missing.share(accelerator)
        with ExitStack() as stack, torch.no_grad():
            # They are opened once, and only for something to encode: unreadable pictures load nothing.
            encoders = functools.cache(
                lambda: stack.enter_context(closing(factory.open(accelerator.device, section.offload_text_encoder)))
            )
            unseen = _encode_texts(encoders, share.texts, cache.texts, console)
            failed = unseen | encode_pictures(
                encoders, share.pictures, cache.latents, console, cut_of(section, factory), kind_of(section)
            )
    # Gathering is also the wait for all processes, so none may leave it out; the second scan finds what they wrote.
    failed = dict(gather_object(list(failed.items())))
    if missing.texts or missing.pictures:
        cache.scan(console)
    return _finished(section, to_encode, failed, cache, factory, negative, console)


def find_missing(
    to_encode: SamplesToEncode, cache: EncodedCache, accelerator: Accelerator, console: Console
) -> MissingEntries:
    """Compare the samples to encode with what is whole in the cache, and say how many are there."""
    items = [(size, item) for size, items in to_encode.items.items() for item in items]
    texts = {key: text for size, item in items for key, text in item.told(size).items()}
    if not cache.sees:
        texts[cache.text_key(EMPTY)] = TextToEncode(EMPTY)
    pictures = {key: place for size, item in items for key, place in item.places(size).items()}
    cache.check(texts, pictures, accelerator, console)
    missing = MissingEntries(
        {key: text for key, text in texts.items() if key not in cache.texts},
        {key: place for key, place in pictures.items() if key not in cache.latents},
    )
    for name, held, wanted, absent in (
        ("text embeddings", cache.texts, texts, missing.texts),
        ("latents", cache.latents, pictures, missing.pictures),
    ):
        if wanted:
            console.say(counted(name, held, len(wanted), len(absent)))
    return missing


def counted(name: str, held: ShardedCache, wanted: int, absent: int) -> str:
    """A line on how many of the wanted entries of a kind the cache has, and how many it lacks."""
    return f"{name}: {wanted - absent} found in {held.folder}, {absent} to encode"


def _encode_texts(
    encoders: Callable[[], Encoders], texts: Mapping[str, TextToEncode], cache: ShardedCache, console: Console
) -> dict[str, str]:
    """Put the conditioning of texts into the cache.

    Returns, by the key of its latents, what the decoder said of pictures that were to be seen with a text.
    """
    keys, failed = list(texts), {}
    with console.progress(len(keys), description="encoding text") as bar, cache.writer() as writer:
        for start in range(0, len(keys), TEXTS_AT_ONCE):
            part = {key: texts[key] for key in keys[start : start + TEXTS_AT_ONCE]}
            seen = dict(_seen(part, failed))
            told = [texts[key].text for key in seen]
            pictures = [picture for picture in seen.values() if picture is not None]
            given = (told, pictures) if pictures else (told,)
            notes = encoders().long_texts(*given) if seen else {}
            entries = encoders().encode_text(*given) if seen else []
            for key, text, entry in zip(seen, told, entries, strict=True):
                writer.add(key, entry, f"the text {text!r:.60}", notes.get(text))
            bar.update(len(part))
    return failed


def _seen(texts: Mapping[str, TextToEncode], failed: dict[str, str]) -> Iterator[tuple[str, Image.Image | None]]:
    """The keys of ``texts``, each with the picture that is seen with it; those of unreadable ones are left out."""
    for key, text in texts.items():
        try:
            yield key, text.seen()
        except (OSError, Unreadable) as error:
            assert text.reference is not None, "a picture that is seen is a reference"
            failed[text.reference] = str(error)


def _finished(
    section: DataSection,
    to_encode: SamplesToEncode,
    failed: Mapping[str, str],
    cache: EncodedCache,
    factory: EncoderFactory,
    negative: bool,
    console: Console,
) -> EncodedData:
    """The data that the caches now hold, after saying which samples had to be left out and why."""
    skipped, buckets = list(to_encode.skipped), []
    for size, items in to_encode.items.items():
        skipped += [
            SkippedPicture(picture.name, UNREADABLE, failed[key])
            for item in items
            for key, picture in item.pictures.items()
            if key in failed
        ]
        samples = [item.sample for item in items if failed.keys().isdisjoint(item.pictures)]
        absent = sum(not _present(sample, cache) for sample in samples)
        if absent:
            raise lacking(cache, absent)
        if samples:
            buckets.append(Bucket(factory.latent_shape(*size, section.frames), samples))
    if not buckets:
        raise UsageError(
            f"no {kind_of(section).name} of {section.captioned} can be used: {summary(skipped)}",
            "mend them, or name others: --data SOURCE",
        )
    if skipped:
        console.warn(f"skipped {len(skipped)} of the {kind_of(section).names}: {summary(skipped)}")
    told = {item.sample.text: item.text for items in to_encode.items.values() for item in items}
    _warn_of_long_texts(told, cache.texts, console)
    empty = cache.text_key(EMPTY) if negative else None
    return EncodedData(buckets, cache.texts, cache.latents, told, empty, len(skipped))


def _warn_of_long_texts(told: Mapping[str, str], texts: ShardedCache, console: Console) -> None:
    """Say which texts, here by their keys, were cut, also where an earlier run encoded them."""
    notes = {text: note for key, text in told.items() if (note := texts.note(key)) is not None}
    if notes:
        console.warn(told_of(notes, len(told)))


def lacking(cache: EncodedCache, absent: int) -> RunError:
    """The error where the processes do not share a cache."""
    what = f"the cache {cache.folder} lacks {absent} samples that other processes were to encode"
    return RunError(what, "give all machines the same folder: --cache DIR")


def _present(sample: SampleKeys, cache: EncodedCache) -> bool:
    latents = (key for key in (sample.latents, sample.reference) if key is not None)
    return sample.text in cache.texts and all(key in cache.latents for key in latents)
