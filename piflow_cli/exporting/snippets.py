"""Lines of Python that model cards show."""

from __future__ import annotations

import torch

from ..student import StudentFacts
from ..teachers import family_of
from ..teachers.text_to_image import TextToImageFamily


def sampling_call(facts: StudentFacts) -> str:
    """What a pipeline is called with: a prompt or classes, and what keeps it from guiding by itself."""
    family = family_of(facts.family, facts.guidance)
    if not isinstance(family, TextToImageFamily):
        return f"[0, 1, 2], num_inference_steps={facts.nfe}"
    text = {"prompt_embeds": torch.zeros(1, 1, 1), "prompt_embeds_mask": torch.ones(1, 1, dtype=torch.long), "pooled_prompt_embeds": torch.zeros(1, 1)}
    numbers = {name: value for name, value in family.pipeline_inputs(text).items() if isinstance(value, int | float)}
    return ", ".join(['"a red fox"', f"num_inference_steps={facts.nfe}", *(f"{name}={value:g}" for name, value in numbers.items())])
