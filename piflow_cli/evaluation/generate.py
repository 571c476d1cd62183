"""From image specs to features, chunk by chunk: nothing is generated twice, and memory is bounded."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..core.tensors import all_finite
from ..errors import RunError
from ..reports.images import png_of, to_images, write_bytes
from ..reports.videos import gif_of, to_videos
from ..sampling.request import GIF, PNG, ImageSpec, batches
from ..system.files import cache_key
from ..system.group import Processes
from ..weights.cache import Cache
from .candidates import Candidate
from .overlap import Overlap

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..console import Console
    from ..sampling.opened import OpenedModel

ROWS = "rows"
FeatureFunction = Callable[[Tensor, Sequence[ImageSpec]], Tensor]
"""Pictures (B, 1 or 3, H, W), or videos (B, 3, F, H, W), around [-1, 1] and their specs → features (B, D).

The features are float32 on the CPU.
"""


class MetricExtractor(Protocol):
    """A :data:`FeatureFunction` for one metric alone; ``tag`` stands for it in keys, and tells it and its weights."""

    @property
    def tag(self) -> str: ...

    def __call__(self, pictures: Tensor, specs: Sequence[ImageSpec]) -> Tensor: ...

    def warn(self, specs: Sequence[ImageSpec], console: Console) -> None:
        """Say what it will not see in the pictures of ``specs``, before they are made."""


# Pictures of a chunk, and the most bytes of their states: an interruption costs one chunk.
CHUNK_PICTURES, CHUNK_BYTES = 256, 64 << 20
# Pictures whose states are kept and compared one by one with the teacher's of the same noise: a mean needs fewer than
# a distribution does, and the teacher's fine solution takes the most time of all.
ALIGNED_PICTURES, ALIGNED_BYTES = 512, 512 << 20


@dataclass(frozen=True)
class Chunk:
    """Image specs of one size whose features are stored together; ``aligned``: their states are kept as well."""

    specs: tuple[ImageSpec, ...]
    aligned: bool

    @property
    def recipes(self) -> list[dict]:
        return [spec.recipe for spec in self.specs]


def chunks_of(specs: Sequence[ImageSpec], state_bytes: int) -> list[Chunk]:
    """``specs`` in chunks, the first of them aligned; ``state_bytes``: of the state of one picture."""
    size = max(1, min(CHUNK_PICTURES, CHUNK_BYTES // state_bytes))
    most = min(ALIGNED_PICTURES, max(size, ALIGNED_BYTES // state_bytes))
    chunks, count = [], 0
    for part in batches(specs, size):
        count += len(part)
        chunks.append(Chunk(tuple(part), count <= most or not chunks))
    return chunks


class Generation:
    """States and features of an opened model's pictures, for one candidate after another.

    What the cache has is not made again. ``extractors``: by the tag that stands for an extractor and its weights in
    keys. ``images``: a folder that takes every picture as PNG, or video as GIF, too, but for those that ``written``
    already names.
    """

    def __init__(
        self,
        opened: OpenedModel,
        specs: Sequence[ImageSpec],
        extractors: Mapping[str, FeatureFunction],
        cache: Cache,
        processes: Processes,
        batch_size: int,
        images: Path | None = None,
        written: Collection[Path] = (),
    ) -> None:
        self.opened, self.extractors, self.cache, self.processes = opened, extractors, cache, processes
        self.batch_size, self.images = batch_size, images
        self.written = set(written)
        self.chunks = chunks_of(specs, 4 * math.prod(opened.shape_of(specs[0])))

    @property
    def specs(self) -> list[ImageSpec]:
        """All image specs, in the order of features."""
        return [spec for chunk in self.chunks for spec in chunk.specs]

    @property
    def aligned(self) -> list[ImageSpec]:
        """The specs whose states are kept, in their order; they come first among all."""
        return [spec for chunk in self._chunks(aligned=True) for spec in chunk.specs]

    def run(self, candidate: Candidate, console: Console, *, aligned: bool = False) -> None:
        """Make whatever the cache of the first process lacks of ``candidate``; each process makes its share.

        ``aligned``: of the aligned specs alone.
        """
        chunks = self._chunks(aligned)
        lacking = self.processes.of_first(
            lambda: [place for place, chunk in enumerate(chunks) if self._lacks(candidate, chunk)]
        )
        if lacking:
            self._make(candidate, [chunks[place] for place in lacking], console)
        else:
            console.say(f"{candidate.title}: from the cache")

    def _make(self, candidate: Candidate, chunks: Sequence[Chunk], console: Console) -> None:
        """Make ``chunks`` in turns of one for each process.

        Processes share the batches of a turn, so that all have work where there are few chunks, and a batch is that of
        one process. The first stores what they made: the others need not see its cache.
        """
        total = sum(len(chunk.specs) for chunk in chunks)
        with console.progress(total, description=candidate.title) as bar, Overlap(self.opened.device) as overlap:
            for turn in self.processes.turns(chunks):
                gathered = Gathered(self, candidate, turn)
                if self.processes.count == 1:
                    # What is stored has been looked at by then, and the next turn is on its way.
                    self._draw(gathered, overlap, bar)
                    overlap.submit(partial(gathered.save, [gathered.parts]))
                else:
                    parts = self.processes.gather(partial(self._drawn, gathered, overlap, bar))
                    if self.processes.first:
                        gathered.save(parts)

    def _drawn(self, gathered: Gathered, overlap: Overlap, bar: tqdm) -> dict[int, MadeBatch]:
        """This process's share of a turn, when all of it has been looked at."""
        self._draw(gathered, overlap, bar)
        overlap.finish()
        return gathered.parts

    def _draw(self, gathered: Gathered, overlap: Overlap, bar: tqdm) -> None:
        candidate, place = gathered.candidate, 0
        for chunk in gathered.chunks:
            kept = self._found(self.states_key(candidate, chunk)) if chunk.aligned else None
            for start in range(0, len(chunk.specs), self.batch_size):
                specs = chunk.specs[start : start + self.batch_size]
                if place % self.processes.count == self.processes.rank:
                    states = self._states(candidate, specs, None if kept is None else kept[start : start + len(specs)])
                    pictures = self.opened.decode(states)
                    overlap.submit(gathered.batch(place, chunk, specs, states, pictures), [states, pictures])
                bar.update(len(specs))
                place += 1

    def states(self, candidate: Candidate) -> Iterator[Tensor]:
        """States (n, C, *S) of the aligned specs, chunk by chunk."""
        for chunk in self._chunks(aligned=True):
            yield self._stored(self.states_key(candidate, chunk))

    def features(self, candidate: Candidate, tag: str, *, aligned: bool = False) -> Iterator[Tensor]:
        """Features (n, D) of all specs, or of the aligned ones, by the extractor under ``tag``, chunk by chunk."""
        for chunk in self._chunks(aligned):
            yield self._stored(self.features_key(candidate, chunk, tag))

    def states_key(self, candidate: Candidate, chunk: Chunk) -> str:
        return cache_key(what="states", candidate=candidate.identity, specs=chunk.recipes)

    def features_key(self, candidate: Candidate, chunk: Chunk, tag: str) -> str:
        return cache_key(
            what="features",
            candidate=candidate.identity,
            specs=chunk.recipes,
            shown=self.opened.shown,
            extractor=tag,
        )

    def _chunks(self, aligned: bool) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.aligned or not aligned]

    def _lacks(self, candidate: Candidate, chunk: Chunk) -> bool:
        keys = [self.features_key(candidate, chunk, tag) for tag in self.extractors]
        if chunk.aligned:
            keys.append(self.states_key(candidate, chunk))
        return any(key not in self.cache for key in keys) or not self.written.issuperset(self._files(candidate, chunk))

    def _files(self, candidate: Candidate, chunk: Chunk) -> list[Path]:
        """What is written of ``chunk`` where pictures are."""
        return [] if self.images is None else [self.file(candidate, spec.stem) for spec in chunk.specs]

    def file(self, candidate: Candidate, stem: str) -> Path:
        """The file of one of the pictures of ``candidate``."""
        assert self.images is not None, "pictures are written where a folder takes them"
        ending = PNG if self.opened.frame_rate is None else GIF
        return self.images / candidate.folder / f"{stem}{ending}"

    def shown(self, candidate: Candidate, specs: Sequence[ImageSpec], pictures: Tensor) -> dict[str, bytes]:
        """The contents of the files of ``pictures``, by the stems of their names."""
        rate = self.opened.frame_rate
        recipes = [{**candidate.identity, **spec.recipe} for spec in specs]
        if rate is None:
            made = [png_of(image, recipe) for image, recipe in zip(to_images(pictures), recipes, strict=True)]
        else:
            made = [gif_of(frames, rate, recipe) for frames, recipe in zip(to_videos(pictures), recipes, strict=True)]
        return {spec.stem: content for spec, content in zip(specs, made)}

    def _states(self, candidate: Candidate, specs: Sequence[ImageSpec], kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept.to(self.opened.device)
        states = candidate.draw(self.opened.noise(specs), self.opened.conditioning(specs))
        if not all_finite(states):
            raise RunError(
                f"{candidate.title}: samples of seeds {specs[0].seed} to {specs[-1].seed} are not finite",
                "piflow inspect-policy STUDENT says where they come from",
            )
        return states

    def _found(self, key: str) -> Tensor | None:
        entry = self.cache.get(key)
        return None if entry is None else entry[ROWS]

    def _stored(self, key: str) -> Tensor:
        found = self._found(key)
        if found is None:
            raise RunError(
                f"the cache lost a chunk of features: {self.cache.path(key)}",
                "run the same command again; another folder is named by --cache DIR",
            )
        return found


@dataclass(frozen=True)
class MadeBatch:
    """What came of one batch: features by the tag of their extractor, states if they are kept, and files if wanted."""

    features: Mapping[str, Tensor]
    states: Tensor | None
    pictures: Mapping[str, bytes]


@dataclass
class Gathered:
    """What this process has made of some chunks so far, by the place of a batch among all of theirs.

    Only the thread of the features touches ``parts`` before they are whole.
    """

    generation: Generation
    candidate: Candidate
    chunks: Sequence[Chunk]
    parts: dict[int, MadeBatch] = field(default_factory=dict)

    def batch(
        self, place: int, chunk: Chunk, specs: Sequence[ImageSpec], states: Tensor, pictures: Tensor
    ) -> Callable[[], None]:
        """The work on one batch: extract the features of its pictures."""
        generation = self.generation

        @torch.no_grad()
        def work() -> None:
            features = {tag: extractor(pictures, specs) for tag, extractor in generation.extractors.items()}
            shown = {} if generation.images is None else generation.shown(self.candidate, specs, pictures)
            self.parts[place] = MadeBatch(features, states.cpu() if chunk.aligned else None, shown)

        return work

    def save(self, found: Iterable[Mapping[int, MadeBatch]]) -> None:
        """Store the chunks, of which all processes have ``found`` their parts."""
        generation, cache = self.generation, self.generation.cache
        parts = ChainMap(*map(dict, found))
        places = iter(range(len(parts)))
        for chunk in self.chunks:
            count = -(-len(chunk.specs) // generation.batch_size)
            own = [parts[place] for place in islice(places, count)]
            for tag in generation.extractors:
                key = generation.features_key(self.candidate, chunk, tag)
                cache.put(key, {ROWS: torch.cat([part.features[tag] for part in own]).float()})
            if chunk.aligned:
                states = torch.cat([part.states for part in own if part.states is not None])
                cache.put(generation.states_key(self.candidate, chunk), {ROWS: states.float()})
            for part in own:
                for stem, content in part.pictures.items():
                    path = generation.file(self.candidate, stem)
                    write_bytes(content, path)
                    generation.written.add(path)
