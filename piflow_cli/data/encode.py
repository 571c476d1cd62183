"""Encoding what the cache lacks: texts and pictures through the teacher's encoders, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from ..errors import RunError, UsageError
from ..teachers.encoders import EncoderFactory, Encoders, PictureEncoder
from ..teachers.long_texts import told_of
from ..weights.cache import ShardedCache
from .buckets import Size, fit
from .collect import EMPTY, UNREADABLE, SamplesToEncode, Skipped, Store, collect, summary
from .encoded import Bucket, EncodedData, Sample
from .picture import Picture
from .pictures import Unreadable

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import DataSection

TEXTS_AT_ONCE = 16
PICTURES_AT_ONCE = 4


@dataclass(frozen=True)
class Missing:
    """What the cache lacks, by key; of pictures with the same content one is enough."""

    texts: Mapping[str, str]
    pictures: Mapping[str, tuple[Size, Picture]]

    def share(self, accelerator: Accelerator) -> Missing:
        """What falls to this process: decided key by key, since one that looks
        later may miss less than the others did."""

        def ours(key: str) -> bool:
            return int(key, 16) % accelerator.num_processes == accelerator.process_index

        return Missing(
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
    store = Store(section, factory)
    to_encode = collect(section, data_free, factory, store)
    store.scan(console)
    missing = find_missing(to_encode, store, accelerator, console)
    failed: dict[str, str] = {}
    if missing.texts or missing.pictures:
        if accelerator.is_main_process:
            store.label()
        share = missing.share(accelerator)
        with ExitStack() as stack, torch.no_grad():
            # Once, and not before something is to be encoded: pictures that turn out unreadable load nothing.
            encoders = cache(
                lambda: stack.enter_context(closing(factory.open(accelerator.device, section.offload_text_encoder)))
            )
            _encode_texts(encoders, share.texts, store.texts, console)
            failed = encode_pictures(encoders, share.pictures, store.latents, console)
    # Gathering is also the wait for all processes, so none may leave it out; the second scan finds what they wrote.
    failed = dict(gather_object(list(failed.items())))
    if missing.texts or missing.pictures:
        store.scan(console)
    return _finished(section, to_encode, failed, store, factory, negative, console)


def find_missing(to_encode: SamplesToEncode, store: Store, accelerator: Accelerator, console: Console) -> Missing:
    """Compare the material with what is whole in the cache, and say how much of it is there."""
    items = [(size, item) for size, items in to_encode.items.items() for item in items]
    texts = {**{item.sample.text: item.text for _, item in items}, store.text_key(EMPTY): EMPTY}
    pictures = {
        item.sample.latents: (size, item.picture)
        for size, item in items
        if item.sample.latents is not None and item.picture is not None
    }
    store.check(texts, pictures, accelerator, console)
    missing = Missing(
        {key: text for key, text in texts.items() if key not in store.texts},
        {key: place for key, place in pictures.items() if key not in store.latents},
    )
    for name, held, wanted, absent in (
        ("text embeddings", store.texts, texts, missing.texts),
        ("latents", store.latents, pictures, missing.pictures),
    ):
        if wanted:
            console.say(counted(name, held, len(wanted), len(absent)))
    return missing


def counted(name: str, held: ShardedCache, wanted: int, absent: int) -> str:
    """How many entries of a kind the cache has, and lacks, of those that are wanted."""
    return f"{name}: {wanted - absent} found in {held.folder}, {absent} to encode"


def _encode_texts(
    encoders: Callable[[], Encoders], texts: Mapping[str, str], store: ShardedCache, console: Console
) -> None:
    keys = list(texts)
    with console.progress(len(keys), description="encoding text") as bar, store.writer() as writer:
        for start in range(0, len(keys), TEXTS_AT_ONCE):
            chosen = keys[start : start + TEXTS_AT_ONCE]
            told = [texts[key] for key in chosen]
            notes = encoders().long_texts(told)
            for key, text, entry in zip(chosen, told, encoders().encode_text(told), strict=True):
                writer.add(key, entry, f"the text {text!r:.60}", notes.get(text))
            bar.update(len(chosen))


def encode_pictures(
    encoders: Callable[[], PictureEncoder],
    pictures: Mapping[str, tuple[Size, Picture]],
    store: ShardedCache,
    console: Console,
    cut: Callable[[Image.Image, Size], Tensor] = fit,
) -> dict[str, str]:
    """Put the posteriors of pictures into the cache, size by size, each ``cut`` to its size as (3, H, W) in [-1, 1].

    Returns, by key, what the decoder said of those it refused.
    """
    groups: dict[Size, list[str]] = {}
    for key, (size, _) in pictures.items():
        groups.setdefault(size, []).append(key)
    failed: dict[str, str] = {}
    with console.progress(len(pictures), description="encoding pictures") as bar, store.writer() as writer:
        for size, keys in groups.items():
            for start in range(0, len(keys), PICTURES_AT_ONCE):
                chosen = {key: pictures[key][1] for key in keys[start : start + PICTURES_AT_ONCE]}
                decoded = dict(_decoded(chosen, size, failed, cut))
                if decoded:
                    means, stds = encoders().encode_images(torch.stack(list(decoded.values())))
                    for key, mean, std in zip(decoded, means, stds, strict=True):
                        writer.add(key, {"mean": mean, "std": std}, chosen[key].name)
                bar.update(len(chosen))
    return failed


def _decoded(
    pictures: Mapping[str, Picture], size: Size, failed: dict[str, str], cut: Callable[[Image.Image, Size], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    for key, picture in pictures.items():
        try:
            yield key, cut(picture.open(), size)
        except (OSError, Unreadable) as error:
            failed[key] = str(error)


def _finished(
    section: DataSection,
    to_encode: SamplesToEncode,
    failed: Mapping[str, str],
    store: Store,
    factory: EncoderFactory,
    negative: bool,
    console: Console,
) -> EncodedData:
    """What the caches now hold of the material, after saying what had to be left out and why."""
    skipped, buckets = list(to_encode.skipped), []
    for size, items in to_encode.items.items():
        skipped += [
            Skipped(item.picture.name, UNREADABLE, failed[item.sample.latents])
            for item in items
            if item.picture is not None and item.sample.latents is not None and item.sample.latents in failed
        ]
        samples = [item.sample for item in items if item.sample.latents not in failed]
        absent = sum(not _present(sample, store) for sample in samples)
        if absent:
            raise lacking(store, absent)
        if samples:
            buckets.append(Bucket(factory.latent_shape(*size), samples))
    if not buckets:
        raise UsageError(
            f"no picture of {section.captioned} can be used: {summary(skipped)}",
            "mend them, or name others: --data SOURCE",
        )
    if skipped:
        console.warn(f"skipped {len(skipped)} of the pictures: {summary(skipped)}")
    _warn_of_long_texts(to_encode, store.texts, console)
    return EncodedData(buckets, store.texts, store.latents, store.text_key(EMPTY) if negative else None)


def _warn_of_long_texts(to_encode: SamplesToEncode, texts: ShardedCache, console: Console) -> None:
    """Say which texts were cut, also where an earlier run encoded them."""
    told = {item.sample.text: item.text for items in to_encode.items.values() for item in items}
    notes = {text: note for key, text in told.items() if (note := texts.note(key)) is not None}
    if notes:
        console.warn(told_of(notes, len(told)))


def lacking(store: Store, absent: int) -> RunError:
    """What is said where the processes do not share a cache."""
    what = f"the cache {store.folder} lacks {absent} samples that other processes were to encode"
    return RunError(what, "give all machines the same folder: --cache DIR")


def _present(sample: Sample, store: Store) -> bool:
    return sample.text in store.texts and (sample.latents is None or sample.latents in store.latents)
