"""Texts that are longer than a text encoder reads, with one wording for all families and commands."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..wording import few

LETTERS_SHOWN = 40


def length_note(tokens: int, most: int) -> str | None:
    """A note on a text of ``tokens``, of which the encoder reads the first ``most``; None where it reads all."""
    return f"{tokens:,} tokens, of which {most:,} are read" if tokens > most else None


def told_of(notes: Mapping[str, str], total: int) -> str:
    """One line about the texts that are cut, by their notes, among ``total``."""
    shown = few([f"{_begun(text)} ({note})" for text, note in notes.items()])
    return (
        f"{len(notes)} of {total} texts are longer than the text encoder reads, and their ends have no effect: {shown}"
    )


@contextmanager
def hushed() -> Generator[None]:
    """Hide the warnings of diffusers and transformers about cut texts, which they give for some families alone."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = [(library, library.get_verbosity()) for library in (of_diffusers, of_transformers)]
    try:
        for library, _ in before:
            library.set_verbosity_error()
        yield
    finally:
        for library, level in before:
            library.set_verbosity(level)


def chat_lengths(tokenizer: Any, texts: Sequence[str], thinking: bool) -> list[int]:
    """Tokens of each text as what a user says to a Qwen3 that is to answer."""
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
    whole = [tokenizer.apply_chat_template([{"role": "user", "content": text}], **options) for text in texts]
    return [len(tokenizer(text).input_ids) for text in whole]


def _begun(text: str) -> str:
    return repr(text if len(text) <= LETTERS_SHOWN else f"{text[:LETTERS_SHOWN]}...")
