"""References that samples are compared with.

They are a folder, saved statistics, clean-fid's statistics by name, or a preset's training set.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..data.labelled_images import load_images
from ..data.pictures import SUFFIXES
from ..errors import UsageError
from ..presets.folders import SHIPPED_PREFIX
from ..presets.places import expanded
from ..system.files import cache_key, identity_of, user_cache
from ..weights.cache import Cache
from ..weights.cache_kinds import STATISTICS
from ..weights.locate import hub_id, locate
from .extractors import Extractor
from .extractors.base import INCEPTION, RESIZE_TENSORFLOW
from .extractors.clean_fid import clean_fid_statistics
from .extractors.features import FeatureCollector, FeatureSet, load_features, refuse_mixing
from .extractors.npz import npz_moments
from .folders import ImageFolder, open_folder
from .reference_kinds import CLEAN_FID, DATA, KNOWN, check_reference

if TYPE_CHECKING:
    from ..console import Console
    from ..presets.schema import Preset

BATCH = 64


def open_reference(
    text: str,
    extractor: Extractor,
    console: Console,
    *,
    preset: Preset | None = None,
    count: int | None = None,
    batch_size: int = BATCH,
    cache: Path | None = None,
    keep: bool = True,
) -> FeatureSet:
    """The statistics that ``text`` names, made by ``extractor``, or a refusal; those of a folder are cached.

    Args:
        text: a folder of pictures; a file of :meth:`FeatureSet.save`; an .npz of ADM, with mu and sigma;
            ``clean-fid:NAME/RESOLUTION/SPLIT`` or ``clean-fid:NAME``; or ``data``, what ``preset`` trains on.
        count: how many pictures of a folder or of the training set to take, the first by name or place; None is all.
        cache: folder of what is kept; None is piflow's in the user's cache.
        keep: the features of a folder's pictures besides their moments, which alone take no memory that grows with
            them.

    Raises:
        UsageError: nothing is there, or another kind of file; too few pictures; or another extractor or resize mode
            made it.
        RunError: a file is damaged, or statistics cannot be downloaded.
    """
    if text == DATA:
        return _training_set(extractor, console, preset, count, batch_size, cache, keep)
    path = expanded(text)
    if path.is_dir():
        return _kept_features(open_folder(path, count, console), extractor, console, batch_size, cache, keep)
    if text.startswith(CLEAN_FID):
        reference = clean_fid_statistics(text, console, cache)
    elif path.suffix.lower() == ".npz":
        reference = npz_statistics(path)
    elif path.suffix.lower() == ".safetensors":
        reference = load_features(path)
        reference.tell(console)
    else:
        check_reference(text)
        raise UsageError(f"{text} is {_kind_of(path)}, and that is no reference", f"name {KNOWN}: --reference PATH")
    refuse_mixing(extractor, reference)
    if count is not None and 0 < reference.count < count:
        raise UsageError(
            f"{text} was made of {reference.count} pictures, and {count} are wanted",
            f"take --num-images {reference.count}",
        )
    return reference


def _kind_of(path: Path) -> str:
    """What ``path`` is, in the words of a user who named it."""
    if not path.is_file():
        return "neither a file nor a folder"
    suffix = path.suffix.lower()
    return "one picture" if suffix in SUFFIXES else f"a {suffix} file" if suffix else "a file without a suffix"


@dataclass
class RecordingConsole:
    """A console that also keeps its warnings, to be repeated with features that come from the cache."""

    console: Console
    lines: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.lines.append(text)
        self.console.warn(text)


def folder_features(
    folder: ImageFolder, extractor: Extractor, console: Console, batch_size: int = BATCH, keep: bool = True
) -> FeatureSet:
    """Features of all pictures of ``folder``; raises RunError where fewer than two turn out to be whole."""
    collector, heard = FeatureCollector(extractor, str(folder.path), keep), RecordingConsole(console)
    with console.progress(len(folder.entries), description=folder.path.name) as bar:
        for images in folder.batches(batch_size, heard):
            collector.add(images)
            bar.update(len(images))
    return replace(collector.finish(), warnings=tuple(heard.lines))


def npz_statistics(path: Path) -> FeatureSet:
    """Mean ``mu`` and covariance ``sigma`` of an .npz of ADM's evaluators (Dhariwal and Nichol, arXiv 2105.05233).

    They resize inside the network, bilinearly, as TensorFlow does, and such files do not tell how many pictures they
    are of.

    Raises:
        UsageError: there is no such file, it lacks the two arrays, or they are no real mean and covariance.
        RunError: it is damaged, or holds values that are not finite or no covariance.
    """
    if not path.is_file():
        raise UsageError(f"there are no statistics at {path}", f"name {KNOWN}: --reference PATH")
    return FeatureSet(INCEPTION, RESIZE_TENSORFLOW, path.name, 0, npz_moments(path, str(path)))


def _kept_features(
    folder: ImageFolder, extractor: Extractor, console: Console, batch_size: int, cache: Path | None, keep: bool
) -> FeatureSet:
    """Statistics of ``folder``, computed once for these files by this extractor."""
    key = cache_key(
        version=__version__, files=identity_of(entry.path for entry in folder.entries), resize=extractor.resize,
        extractor=extractor.name, weights=extractor.identity, keep=keep,
    )  # fmt: skip
    statistics = Cache(user_cache(cache) / STATISTICS)
    entry = statistics.get(key)
    if entry is not None:
        kept = FeatureSet.of_entry(entry)
        kept.tell(console)
        return replace(kept, source=str(folder.path))
    made = folder_features(folder, extractor, console, batch_size, keep)
    statistics.put(key, made.entry())
    statistics.forget_unused()
    return made


def training_pictures(preset: Preset) -> Path | None:
    """The file of labelled pictures that ``preset`` trains on, as its students make them; None where none is at hand.

    A student may have come here without them.
    """
    images = preset.data.images
    if images is None or preset.teacher.vae is not None:
        return None
    here = images.startswith(SHIPPED_PREFIX) or hub_id(images) is not None or expanded(images).exists()
    return locate(images) if here else None


def _training_set(
    extractor: Extractor,
    console: Console,
    preset: Preset | None,
    count: int | None,
    batch_size: int,
    cache: Path | None,
    keep: bool,
) -> FeatureSet:
    if preset is None:
        raise UsageError(
            "the reference data is what a student trained on, and no student is given",
            f"name {KNOWN.removesuffix(', or data')}: --reference PATH",
        )
    section = preset.data
    if (place := training_pictures(preset)) is not None:
        images, _ = load_images(place)
        if count is not None and len(images) < count:
            raise UsageError(
                f"the training set holds {len(images)} pictures, and {count} are wanted",
                f"take --num-images {len(images)}",
            )
        collector = FeatureCollector(extractor, f"{DATA} of {preset.name}")
        for part in images[:count].split(batch_size):
            collector.add(part)
        return collector.finish()
    if section.captioned is not None and (folder := expanded(section.captioned)).is_dir():
        # Training takes the first of them by name too.
        taken = open_folder(folder, count, console, most=section.limit)
        return _kept_features(taken, extractor, console, batch_size, cache, keep)
    source = None if section.source is None else getattr(section, section.source)
    named = section.source if source == "uniform" else f"{section.source} ({source})"
    trained = f"trains on {named}, which are no pictures on this machine"
    raise UsageError(
        f"the preset {preset.name} {'names nothing to train on' if section.source is None else trained}",
        "name a folder of pictures or a file of statistics: --reference PATH",
    )
