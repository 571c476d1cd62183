"""How well pictures fit their prompts, by CLIP (Hessel et al., arXiv 2104.08718)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...system.files import identity_of_place
from ...teachers.long_texts import hushed, length_note
from ..extractors.pictures import quantised
from ..extractors.pretrained import load_network, model_folder

TEXT = ("*config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json")
BATCH = 32


class ClipScore:
    """The cosine of CLIP's embeddings of a picture and of its prompt, between -1 and 1, neither scaled nor clipped.

    ``identity`` tells its files from others of the same name, for caches.

    ``source`` is a folder that transformers can read (model, tokenizer, image processor), or a Hub id; errors are those
    of ``model_folder``.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPProcessor

        folder = model_folder(source, "clip", also=TEXT)
        self.name, self.device = f"clip:{source}", device
        self.identity = identity_of_place(folder)
        self.processor = CLIPProcessor.from_pretrained(folder)
        self.network = load_network(CLIPModel, folder, device)

    def long_texts(self, texts: Sequence[str]) -> dict[str, str]:
        """Those of ``texts`` that CLIP does not read to their ends, each with how much of it is read, in words."""
        tokenizer = self.processor.tokenizer
        with hushed():
            notes = {text: length_note(len(tokenizer(text).input_ids), tokenizer.model_max_length) for text in texts}
        return {text: note for text, note in notes.items() if note is not None}

    @torch.no_grad()
    def scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines (B,), float32 on the CPU, of pictures (B, 1 or 3, H, W) around
        [-1, 1] and their texts; long texts are cut."""
        levels = quantised(images).cpu()
        parts = [
            self._scores(levels[start : start + BATCH], texts[start : start + BATCH])
            for start in range(0, len(texts), BATCH)
        ]
        return torch.cat(parts)

    def _scores(self, levels: Tensor, texts: Sequence[str]) -> Tensor:
        inputs = self.processor(
            text=list(texts), images=list(levels), return_tensors="pt", padding=True, truncation=True
        ).to(self.device)
        output = self.network(**inputs)
        return F.cosine_similarity(output.image_embeds.float(), output.text_embeds.float(), dim=1).cpu()
