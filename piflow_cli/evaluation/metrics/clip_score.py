"""CLIP score: how well pictures fit their prompts (Hessel et al., arXiv 2104.08718)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.tensors import to_device
from ...sampling.request import ImageSpec
from ...system.files import identity_of_place
from ...teachers.long_texts import hushed, length_note, told_of
from ..extractors.pictures import quantised
from ..extractors.pretrained import load_network, load_processor, model_folder
from ..frames import by_frame
from ..rows import Row

if TYPE_CHECKING:
    from ...console import Console
    from ..measuring import Measuring
    from ..request import EvalRequest

TEXT = ("*config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json")
BATCH = 32
# The network of pi-Flow's CLIP similarity; its own processor shows it pictures of 336 pixels.
CLIP = "openai/clip-vit-large-patch14-336"


def open_clip(request: EvalRequest, device: torch.device) -> ClipExtractor:
    """The CLIP that was named, or that of the paper."""
    return ClipExtractor(ClipScore(CLIP if request.clip is None else request.clip, device))


def clip_scores(measuring: Measuring) -> Iterator[Row]:
    extractor = measuring.metric_extractors["clip"]
    assert isinstance(extractor, ClipExtractor), "it was opened by open_clip"
    for candidate in measuring.candidates:
        scores = torch.cat(list(measuring.generation.features(candidate, extractor.tag)))
        names = {"extractor": extractor.clip.name, "resize": "its own"}
        yield measuring.row(candidate, "clip", scores.double().mean().item(), len(scores), **names)


@dataclass(frozen=True)
class ClipExtractor:
    """CLIP as an extractor that reads pictures with their prompts: one number a picture.

    That of a video is the mean over its frames, as in GODIVA (Wu et al., arXiv 2104.14806).
    """

    clip: ClipScore

    @property
    def tag(self) -> str:
        return f"{self.clip.name}, weights {self.clip.identity}"

    def __call__(self, pictures: Tensor, specs: Sequence[ImageSpec]) -> Tensor:
        frames = 1 if pictures.ndim == 4 else pictures.shape[2]
        texts = [spec.text for spec in specs for _ in range(frames)]
        return by_frame(lambda shown: self.clip.scores(shown, texts), pictures).unsqueeze(1)

    def warn(self, specs: Sequence[ImageSpec], console: Console) -> None:
        texts = list(dict.fromkeys(spec.text for spec in specs))
        if long := self.clip.long_texts(texts):
            console.warn(f"CLIP score: {told_of(long, len(texts))}")


class ClipScore:
    """The cosine of CLIP's embeddings of a picture and of its prompt, in [-1, 1], neither scaled nor clipped.

    ``identity`` tells its files from others of the same name, for caches.

    ``source`` is a folder that transformers can read (model, tokenizer, image processor), or a Hub id; errors are those
    of ``model_folder``.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPProcessor

        folder = model_folder(source, "clip", "--clip PATH", also=TEXT)
        self.name, self.device = f"clip:{source}", device
        self.identity = identity_of_place(folder)
        self.processor = load_processor(CLIPProcessor, folder)
        self.network = load_network(CLIPModel, folder, device)

    def long_texts(self, texts: Sequence[str]) -> dict[str, str]:
        """Those of ``texts`` that CLIP does not read to their ends, each with how much of it is read, in words."""
        tokenizer = self.processor.tokenizer
        with hushed():
            notes = {text: length_note(len(tokenizer(text).input_ids), tokenizer.model_max_length) for text in texts}
        return {text: note for text, note in notes.items() if note is not None}

    @torch.no_grad()
    def scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines (B,), float32 on the CPU, of pictures (B, 1 or 3, H, W) around [-1, 1] and texts, cut if long."""
        levels = quantised(images).cpu()
        parts = [
            self._scores(levels[start : start + BATCH], texts[start : start + BATCH])
            for start in range(0, len(texts), BATCH)
        ]
        return torch.cat(parts).cpu()

    def _scores(self, levels: Tensor, texts: Sequence[str]) -> Tensor:
        inputs = self.processor(
            text=list(texts), images=list(levels), return_tensors="pt", padding=True, truncation=True
        )
        output = self.network(**to_device(dict(inputs), self.device))
        return F.cosine_similarity(output.image_embeds.float(), output.text_embeds.float(), dim=1)
