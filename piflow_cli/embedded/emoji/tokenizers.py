"""Tokenizers whose vocabularies are the captions': CLIP's byte pairs, and unigrams as T5 has them."""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from ...system.files import replacing_file

CLIP, T5 = "tokenizer", "tokenizer_2"
PAIRS = 4_000
LENGTH = 32
MARK = "▁"
SPELLED = -20.0
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizers(texts: Sequence[str], folder: Path) -> None:
    """Write both tokenizers into ``folder``, under the names that FLUX's pipeline gives them."""
    clip, t5 = clip_tokenizer(texts), t5_tokenizer(texts)
    clip.save_pretrained(folder / CLIP)
    t5.save_pretrained(folder / T5)
    # transformers 4 reads these two files, and does not know the name that 5 gives to the other tokenizer's class.
    model = json.loads(clip.backend_tokenizer.to_str())["model"]
    _write(folder / CLIP / "vocab.json", json.dumps(model["vocab"]))
    _write(folder / CLIP / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]))
    config = folder / T5 / "tokenizer_config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    _write(config, json.dumps({**content, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2))


def _write(path: Path, content: str) -> None:
    with replacing_file(path) as aside:
        aside.write_text(content + "\n", encoding="utf-8")


def clip_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """A CLIPTokenizer; start and end of text are its last two tokens, as in CLIP's own."""
    whole = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    whole.normalizer = normalizers.Lowercase()
    # As CLIPTokenizer splits: words, single digits, runs of marks.
    words = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
    whole.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=PAIRS,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=[],
        show_progress=False,
    )
    whole.train_from_iterator(texts, trainer)
    model = json.loads(whole.to_str())["model"]
    vocab = dict(model["vocab"])
    for token in (*(f"{letter}</w>" for letter in alphabet), START, END):
        vocab.setdefault(token, len(vocab))
    merges: Any = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def t5_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Unigrams behind T5's word marks, and T5's ids of padding, end and unknown: 0, 1, 2. Case is ignored."""
    marks: dict[str, Any] = {"replacement": MARK, "prepend_scheme": "always", "split": True}
    whole = Tokenizer(models.Unigram(unigrams(texts), unk_id=2, byte_fallback=False))
    whole.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()],
    )
    whole.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**marks)],
    )
    whole.decoder = decoders.Metaspace(**marks)
    whole.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, model_max_length=LENGTH, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def unigrams(texts: Sequence[str]) -> list[tuple[str, float]]:
    """The captions' words and marks with their log-frequencies; other words are spelled."""
    counts = Counter(
        piece for text in texts for word in text.split() for piece in re.findall(rf"{MARK}?[a-z]+|.", MARK + word)
    )
    total = sum(counts.values())
    letters = [piece for piece in (MARK, *string.printable.strip()) if piece == piece.lower() and piece not in counts]
    return [
        *(("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)),
        *((piece, math.log(count / total)) for piece, count in sorted(counts.items())),
        *((letter, SPELLED) for letter in letters),
    ]


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, PreTrainedTokenizerFast]:
    return CLIPTokenizer.from_pretrained(folder / CLIP), PreTrainedTokenizerFast.from_pretrained(folder / T5)


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int = LENGTH) -> Tensor:
    """Ids (N, length) of texts as FLUX's pipeline makes them: padded, and cut."""
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    return torch.tensor(tokenizer(list(texts), **options).input_ids)
