"""Lines of Python that several formats show on their model cards."""

from __future__ import annotations

from ..student import StudentFacts
from ..teachers import family_of
from ..teachers.text_to_image import TextToImageFamily
from .card import unguided


def sampling_call(facts: StudentFacts) -> str:
    """What a pipeline is called with: a prompt or classes, and what keeps it from guiding by itself."""
    family = family_of(facts.family, facts.guidance)
    steps = f"num_inference_steps={facts.nfe}"
    return f'"a red fox", {steps}, {unguided(family)}' if isinstance(family, TextToImageFamily) else f"[0, 1, 2], {steps}"
