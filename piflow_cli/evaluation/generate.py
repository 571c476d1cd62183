"""From shots to features, block by block: nothing is generated twice, and memory
does not grow with the number of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..core.tensors import all_finite
from ..errors import RunError
from ..reports.images import save_png, to_images
from ..sampling.request import ImageSpec, batches
from ..system.files import cache_key
from ..system.processes import Processes
from ..weights.cache import Cache
from .candidates import Candidate
from .overlap import Overlap

if TYPE_CHECKING:
    from ..console import Console
    from ..sampling.opened import OpenedModel

ROWS = "rows"
Look = Callable[[Tensor, Sequence[ImageSpec]], Tensor]
"""Pictures (B, 1 or 3, H, W) around [-1, 1] and their shots → numbers (B, D) float32 on the CPU."""


class OwnLook(Protocol):
    """A :data:`Look` for one metric alone; ``tag`` stands for it in keys, and tells it and its weights."""

    @property
    def tag(self) -> str: ...

    def __call__(self, pictures: Tensor, specs: Sequence[ImageSpec]) -> Tensor: ...

    def warn(self, specs: Sequence[ImageSpec], console: Console) -> None:
        """Say what it does not see in the pictures of ``specs``, before they are made."""


# Pictures that are stored together, and the most that their states take: what an interruption costs.
BLOCK_PICTURES, BLOCK_BYTES = 256, 64 << 20
# So many pictures are compared with the teacher's of the same noise, one by one, and their states kept: a mean needs
# fewer than a distribution does, and the teacher's fine solution takes the most time of all.
ALIGNED_PICTURES, ALIGNED_BYTES = 512, 512 << 20


@dataclass(frozen=True)
class Block:
    """Shots of one size that are stored together; ``aligned``: their states are kept as well."""

    specs: tuple[ImageSpec, ...]
    aligned: bool

    @property
    def recipes(self) -> list[dict]:
        return [spec.recipe for spec in self.specs]


def blocks_of(specs: Sequence[ImageSpec], state_bytes: int) -> list[Block]:
    """``shots`` in blocks, of which the first are aligned; ``state_bytes``: of the state of one picture."""
    size = max(1, min(BLOCK_PICTURES, BLOCK_BYTES // state_bytes))
    most = min(ALIGNED_PICTURES, max(size, ALIGNED_BYTES // state_bytes))
    blocks, count = [], 0
    for part in batches(specs, size):
        count += len(part)
        blocks.append(Block(tuple(part), count <= most or not blocks))
    return blocks


class Generation:
    """States and features of a scene's shots, for one subject after another; what the store has is not made again.

    ``looks``: what is seen in pictures, by the tag that stands for it in keys, which tells extractor and weights.
    ``images``: a folder that takes every picture as PNG, too.
    """

    def __init__(
        self,
        opened: OpenedModel,
        specs: Sequence[ImageSpec],
        looks: Mapping[str, Look],
        store: Cache,
        processes: Processes,
        batch_size: int,
        images: Path | None = None,
    ) -> None:
        self.opened, self.looks, self.store, self.processes = opened, looks, store, processes
        self.batch_size, self.images = batch_size, images
        self.blocks = blocks_of(specs, 4 * math.prod(opened.shape_of(specs[0])))

    @property
    def specs(self) -> list[ImageSpec]:
        """All shots, in the order of features."""
        return [spec for block in self.blocks for spec in block.specs]

    @property
    def aligned(self) -> list[ImageSpec]:
        """The shots whose states are kept, in their order; they come first among all."""
        return [spec for block in self._blocks(aligned=True) for spec in block.specs]

    def run(self, candidate: Candidate, console: Console, *, aligned: bool = False) -> None:
        """Make whatever the store lacks of ``subject``, this process its share, and wait for the others.

        ``aligned``: of the aligned shots alone.
        """
        # By place and not by what is missing: the others may have added to the store before this one looks into it.
        share = self._blocks(aligned)[self.processes.rank :: self.processes.count]
        mine = [block for block in share if self._lacks(candidate, block) or self.images is not None]
        self._tell_of_older(candidate, console)
        if mine:
            self._make(candidate, mine, console)
        else:
            console.say(f"{candidate.title}: from the cache")
        self.processes.wait()

    def _tell_of_older(self, candidate: Candidate, console: Console) -> None:
        """Pictures that are there already and stay: they would be taken for some of these."""
        if self.images is None:
            return
        ours = {f"{spec.stem}.png" for spec in self.specs}
        older = [path for path in (self.images / candidate.folder).glob("*.png") if path.name not in ours]
        if older:
            count = "1 older picture" if len(older) == 1 else f"{len(older):,} older pictures"
            folder = self.images / candidate.folder
            console.warn(f"{folder} holds {count} of other seeds, and they stay: name another folder with --output DIR")

    def _make(self, candidate: Candidate, blocks: Sequence[Block], console: Console) -> None:
        total = sum(len(block.specs) for block in blocks)
        with console.progress(total, description=candidate.title) as bar, Overlap(self.opened.device) as overlap:
            for block in blocks:
                gathered = _Gathered(self, candidate, block)
                kept = self._found(self.states_key(candidate, block)) if block.aligned else None
                for start in range(0, len(block.specs), self.batch_size):
                    specs = block.specs[start : start + self.batch_size]
                    states = self._states(candidate, specs, None if kept is None else kept[start : start + len(specs)])
                    pictures = self.opened.decode(states)
                    overlap.submit(gathered.batch(specs, states, pictures), [states, pictures])
                    bar.update(len(specs))
                overlap.submit(gathered.save)

    def states(self, candidate: Candidate) -> Iterator[Tensor]:
        """States (n, C, *S) of the aligned shots, block by block."""
        for block in self._blocks(aligned=True):
            yield self._stored(self.states_key(candidate, block))

    def features(self, candidate: Candidate, tag: str, *, aligned: bool = False) -> Iterator[Tensor]:
        """Features (n, D) of all shots, or of the aligned ones, by the extractor under ``tag``, block by block."""
        for block in self._blocks(aligned):
            yield self._stored(self.features_key(candidate, block, tag))

    def states_key(self, candidate: Candidate, block: Block) -> str:
        return cache_key(what="states", candidate=candidate.identity, specs=block.recipes)

    def features_key(self, candidate: Candidate, block: Block, tag: str) -> str:
        return cache_key(
            what="features",
            candidate=candidate.identity,
            specs=block.recipes,
            shown=self.opened.student.facts.vae,
            extractor=tag,
        )

    def _blocks(self, aligned: bool) -> list[Block]:
        return [block for block in self.blocks if block.aligned or not aligned]

    def _lacks(self, candidate: Candidate, block: Block) -> bool:
        keys = [self.features_key(candidate, block, tag) for tag in self.looks]
        return any(
            key not in self.store for key in keys + ([self.states_key(candidate, block)] if block.aligned else [])
        )

    def _states(self, candidate: Candidate, specs: Sequence[ImageSpec], kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept.to(self.opened.device)
        states = candidate.draw(self.opened.noise(specs), self.opened.conditioning(specs))
        if not all_finite(states):
            raise RunError(
                f"{candidate.title}: samples of seeds {specs[0].seed} to {specs[-1].seed} are not finite",
                "piflow inspect-policy says where they come from; or try an earlier checkpoint",
            )
        return states

    def _found(self, key: str) -> Tensor | None:
        entry = self.store.get(key)
        return None if entry is None else entry[ROWS]

    def _stored(self, key: str) -> Tensor:
        found = self._found(key)
        if found is None:
            raise RunError(
                f"the cache lost a block of features: {self.store.path(key)}",
                "run the same command again; several processes must share the folder: --cache DIR",
            )
        return found


@dataclass
class _Gathered:
    """What is known of one block so far; touched by the thread of the features alone."""

    generation: Generation
    candidate: Candidate
    block: Block
    features: dict[str, list[Tensor]] = field(default_factory=dict)
    states: list[Tensor] = field(default_factory=list)

    def batch(self, specs: Sequence[ImageSpec], states: Tensor, pictures: Tensor) -> Callable[[], None]:
        """The work on one batch: look at its pictures."""

        @torch.no_grad()
        def work() -> None:
            for tag, look in self.generation.looks.items():
                self.features.setdefault(tag, []).append(look(pictures, specs))
            if self.block.aligned:
                self.states.append(states.cpu())
            if self.generation.images is not None:
                folder = self.generation.images / self.candidate.folder
                for spec, image in zip(specs, to_images(pictures), strict=True):
                    save_png(image, folder / f"{spec.stem}.png", {**self.candidate.identity, **spec.recipe})

        return work

    def save(self) -> None:
        """Store the block, now that all of its batches are through."""
        generation, store = self.generation, self.generation.store
        for tag, parts in self.features.items():
            store.put(generation.features_key(self.candidate, self.block, tag), {ROWS: torch.cat(parts).float()})
        if self.block.aligned:
            store.put(generation.states_key(self.candidate, self.block), {ROWS: torch.cat(self.states).float()})
