"""From shots to features, block by block: nothing is generated twice, and memory does not grow with the number of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.tensors import all_finite
from ..errors import RunError
from ..reports.images import save_png, to_images
from ..sampling.request import Shot, batches
from ..system.files import cache_key
from ..system.processes import Processes
from .candidates import Subject
from .overlap import Overlap
from .store import Store

if TYPE_CHECKING:
    from ..console import Console
    from ..sampling.opened import Scene

Look = Callable[[Tensor, Sequence[Shot]], Tensor]
"""Pictures (B, 1 or 3, H, W) around [-1, 1] and their shots → numbers (B, D) float32 on the CPU."""

# Pictures that are stored together, and the most that their states take: what an interruption costs.
BLOCK_PICTURES, BLOCK_BYTES = 256, 64 << 20
# So many pictures are compared with the teacher's of the same noise, one by one, and their states kept: a mean needs fewer
# than a distribution does, and the teacher's fine solution takes the most time of all.
ALIGNED_PICTURES, ALIGNED_BYTES = 512, 512 << 20


@dataclass(frozen=True)
class Block:
    """Shots of one size that are stored together; ``aligned``: their states are kept as well."""

    shots: tuple[Shot, ...]
    aligned: bool

    @property
    def recipes(self) -> list[dict]:
        return [shot.recipe for shot in self.shots]


def blocks_of(shots: Sequence[Shot], state_bytes: int) -> list[Block]:
    """``shots`` in blocks, of which the first are aligned; ``state_bytes``: of the state of one picture."""
    size = max(1, min(BLOCK_PICTURES, BLOCK_BYTES // state_bytes))
    most = min(ALIGNED_PICTURES, max(size, ALIGNED_BYTES // state_bytes))
    blocks, count = [], 0
    for part in batches(shots, size):
        count += len(part)
        blocks.append(Block(tuple(part), count <= most or not blocks))
    return blocks


class Generation:
    """States and features of a scene's shots, for one subject after another; what the store has is not made again.

    ``looks``: what is seen in pictures, by the tag that stands for it in keys, which tells extractor and weights. ``images``: a
    folder that takes every picture as PNG, too.
    """

    def __init__(
        self,
        scene: Scene,
        shots: Sequence[Shot],
        looks: Mapping[str, Look],
        store: Store,
        processes: Processes,
        batch_size: int,
        images: Path | None = None,
    ) -> None:
        self.scene, self.looks, self.store, self.processes = scene, looks, store, processes
        self.batch_size, self.images = batch_size, images
        self.blocks = blocks_of(shots, 4 * math.prod(scene.shape_of(shots[0])))

    @property
    def shots(self) -> list[Shot]:
        """All shots, in the order of features."""
        return [shot for block in self.blocks for shot in block.shots]

    @property
    def aligned(self) -> list[Shot]:
        """The shots whose states are kept, in their order; they come first among all."""
        return [shot for block in self._blocks(aligned=True) for shot in block.shots]

    def run(self, subject: Subject, console: Console, *, aligned: bool = False) -> None:
        """Make whatever the store lacks of ``subject``, this process its share, and wait for the others.

        ``aligned``: of the aligned shots alone.
        """
        # By place and not by what is missing: the others may have added to the store before this one looks into it.
        share = self._blocks(aligned)[self.processes.rank :: self.processes.count]
        mine = [block for block in share if self._lacks(subject, block) or self.images is not None]
        self._tell_of_older(subject, console)
        if mine:
            self._make(subject, mine, console)
        else:
            console.say(f"{subject.title}: from the cache")
        self.processes.wait()

    def _tell_of_older(self, subject: Subject, console: Console) -> None:
        """Pictures that are there already and stay: they would be taken for some of these."""
        if self.images is None:
            return
        ours = {f"{shot.stem}.png" for shot in self.shots}
        older = [path for path in (self.images / subject.folder).glob("*.png") if path.name not in ours]
        if older:
            count = "1 older picture" if len(older) == 1 else f"{len(older):,} older pictures"
            folder = self.images / subject.folder
            console.warn(f"{folder} holds {count} of other seeds, and they stay: name another folder with --output DIR")

    def _make(self, subject: Subject, blocks: Sequence[Block], console: Console) -> None:
        total = sum(len(block.shots) for block in blocks)
        with console.progress(total, description=subject.title) as bar, Overlap(self.scene.device) as overlap:
            for block in blocks:
                gathered = _Gathered(self, subject, block)
                kept = self.store.get(self.states_key(subject, block)) if block.aligned else None
                for start in range(0, len(block.shots), self.batch_size):
                    shots = block.shots[start : start + self.batch_size]
                    states = self._states(subject, shots, None if kept is None else kept[start : start + len(shots)])
                    pictures = self.scene.decode(states)
                    overlap.submit(gathered.batch(shots, states, pictures), [states, pictures])
                    bar.update(len(shots))
                overlap.submit(gathered.save)

    def states(self, subject: Subject) -> Iterator[Tensor]:
        """States (n, C, *S) of the aligned shots, block by block."""
        for block in self._blocks(aligned=True):
            yield self._stored(self.states_key(subject, block))

    def features(self, subject: Subject, tag: str, *, aligned: bool = False) -> Iterator[Tensor]:
        """Features (n, D) of all shots, or of the aligned ones, by the extractor under ``tag``, block by block."""
        for block in self._blocks(aligned):
            yield self._stored(self.features_key(subject, block, tag))

    def states_key(self, subject: Subject, block: Block) -> str:
        return cache_key(what="states", subject=subject.identity, shots=block.recipes)

    def features_key(self, subject: Subject, block: Block, tag: str) -> str:
        return cache_key(what="features", subject=subject.identity, shots=block.recipes, shown=self.scene.student.facts.vae, extractor=tag)

    def _blocks(self, aligned: bool) -> list[Block]:
        return [block for block in self.blocks if block.aligned or not aligned]

    def _lacks(self, subject: Subject, block: Block) -> bool:
        keys = [self.features_key(subject, block, tag) for tag in self.looks]
        return any(key not in self.store for key in keys + ([self.states_key(subject, block)] if block.aligned else []))

    def _states(self, subject: Subject, shots: Sequence[Shot], kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept.to(self.scene.device)
        states = subject.draw(self.scene.noise(shots), self.scene.conditioning(shots))
        if not all_finite(states):
            raise RunError(
                f"{subject.title}: samples of seeds {shots[0].seed} to {shots[-1].seed} are not finite",
                "piflow inspect-policy says where they come from; or try an earlier checkpoint",
            )
        return states

    def _stored(self, key: str) -> Tensor:
        found = self.store.get(key)
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
    subject: Subject
    block: Block
    features: dict[str, list[Tensor]] = field(default_factory=dict)
    states: list[Tensor] = field(default_factory=list)

    def batch(self, shots: Sequence[Shot], states: Tensor, pictures: Tensor) -> Callable[[], None]:
        """The work on one batch: look at its pictures."""

        @torch.no_grad()
        def work() -> None:
            for tag, look in self.generation.looks.items():
                self.features.setdefault(tag, []).append(look(pictures, shots))
            if self.block.aligned:
                self.states.append(states.cpu())
            if self.generation.images is not None:
                folder = self.generation.images / self.subject.folder
                for shot, image in zip(shots, to_images(pictures), strict=True):
                    save_png(image, folder / f"{shot.stem}.png", {**self.subject.identity, **shot.recipe})

        return work

    def save(self) -> None:
        """Store the block, now that all of its batches are through."""
        generation, store = self.generation, self.generation.store
        for tag, parts in self.features.items():
            store.put(generation.features_key(self.subject, self.block, tag), torch.cat(parts))
        if self.block.aligned:
            store.put(generation.states_key(self.subject, self.block), torch.cat(self.states))
