"""The model card: what the student is, how it was trained, and how to sample it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.policies.kinds import policy_kind
from ..errors import UsageError
from ..presets.contradictions import USUAL_SIDE
from ..presets.families import frame_step_of
from ..presets.folders import SHIPPED_PREFIX
from ..sampling.text_specs import usual_size
from ..students.evaluations import steps_told
from ..students.facts import StudentFacts
from ..students.fused_loras import told_loras
from ..students.open import FoundStudent, preset_of
from ..teachers import family_of
from ..teachers.base import TeacherFamily
from ..teachers.text_to_image import TextToImageFamily
from ..weights.locate import CONFIGS, hub_id, locate
from ..wording import evaluations
from .request import CARD_NAME, TAG, FormatKind

PICTURE_NAME = "samples.png"
LOADS_PICTURES = "from diffusers.utils import load_image\n"
PAPER = "https://arxiv.org/abs/2510.14974"
# Licences of presets that the Hub knows by name.
KNOWN_LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "openrail", "openrail++")


def license_tags(text: str) -> dict[str, str]:
    """The Hub's tags for a preset's licence, that of the weights where it names several."""
    parts = [part for part in text.split(" / ") if "(weights)" in part] or [text]
    name = parts[0].replace("(weights)", "").strip()
    if name.lower() in KNOWN_LICENSES:
        return {"license": name.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")}


def unguided(family: TextToImageFamily) -> str:
    """Keyword arguments that keep the stock pipeline from guiding by itself."""
    text = {"prompt_embeds": torch.zeros(1, 1, 1), "prompt_embeds_mask": torch.ones(1, 1, dtype=torch.long)}
    told = family.pipeline_inputs(text)
    return ", ".join(f"{name}={value:g}" for name, value in told.items() if isinstance(value, float))


def write_card(
    folder: Path,
    facts: StudentFacts,
    name: str,
    snippet: str,
    export: Mapping[str, object],
    format: FormatKind,
    source: Path,
    teacher: str | None,
) -> None:
    """Write README.md into ``folder``.

    ``export``: the report on what was written in ``format``. ``source`` and ``teacher``: of the preset.
    """
    from huggingface_hub import ModelCardData

    family = family_of(facts.family, facts.guidance)
    edits = isinstance(family, TextToImageFamily) and family.shown
    license = _license(facts, source, teacher)
    base = hub_id(facts.base)
    tags: dict[str, Any] = {} if license is None else license_tags(license)
    data = ModelCardData(
        base_model=None if base is None else base[0],
        base_model_relation=None if base is None else format.relation,
        library_name="diffusers",
        pipeline_tag=_task(family),
        tags=[TAG, "few-step", "distillation", facts.policy, family.model_name],
        **tags,
    )
    made = "picture" if frame_step_of(facts.family) is None else "video"
    picture = f"![Samples]({PICTURE_NAME})\n\n" if (folder / PICTURE_NAME).is_file() else ""
    text = f"""\
---
{data.to_yaml()}
---

# {escaped(name)}

A student of {escaped(facts.teacher if base is None else facts.base)} that makes a {made} in {evaluations(facts.nfe)},
distilled by policy imitation ([π-Flow]({PAPER})) with piflow {escaped(facts.version)}.

{picture}{_table({**_told(facts, license), **export})}

```python
{LOADS_PICTURES if edits else ""}{snippet.rstrip()}
```

{_steps(facts, format)} Guidance is distilled in: no pipeline may guide on top of it.
"""
    (folder / CARD_NAME).write_text(text, encoding="utf-8")


def _task(family: TeacherFamily) -> str:
    """The Hub's name of what a model does."""
    if not isinstance(family, TextToImageFamily):
        return "unconditional-image-generation"
    if family.shown:
        return "image-to-image"
    return "text-to-image" if family.frame_step is None else "text-to-video"


def escaped(text: str) -> str:
    """``text`` for a card, letter by letter: no markup, no HTML, one line."""
    return re.sub(r"([\\`*_\[\]<>|&~$!])", r"\\\1", " ".join(text.split()))


def _license(facts: StudentFacts, source: Path, teacher: str | None) -> str | None:
    """The licence of the teacher by its preset; None where that is not at hand."""
    try:
        return preset_of(facts, source, teacher).teacher.license
    except UsageError:
        return None


def _told(facts: StudentFacts, license: str | None) -> dict[str, object]:
    return {
        "teacher": facts.teacher,
        "base": facts.base + (f" at {facts.revision}" if facts.revision else ""),
        **({"LoRAs fused into the base": told_loras(facts.teacher_loras)} if facts.teacher_loras else {}),
        "licence of the teacher": "not said" if license is None else license,
        "policy": policy_kind(facts.policy).words.card.format(facts.components),
        "network evaluations (NFE)": facts.nfe,
        "shift": f"{facts.shift:g}",
        "final step, relative to the others": f"{facts.final_step_scale:g}",
        "policy substeps per unit of raw time": facts.substeps,
        "temperature": facts.temperature,
        "guidance, distilled in": f"{facts.guidance:g}",
        "training iterations": facts.iterations if facts.iterations > 0 else "not said",
        "precision of the base in training": facts.base_dtype,
    }


def _table(rows: Mapping[str, object]) -> str:
    shown = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in rows.items()}
    cells = [f"| {name.replace('_', ' ')} | {escaped(value)} |" for name, value in shown.items()]
    return "\n".join(["| | |", "|---|---|", *cells])


def _steps(facts: StudentFacts, format: FormatKind) -> str:
    """The sentence on other numbers of steps."""
    if format.any_steps:
        return steps_told(facts)
    return f"{evaluations(facts.nfe).capitalize()}, no other number: a policy of PiflowScheduler spans one step."


def sizes_told(found: FoundStudent) -> str:
    """Arguments of a pipeline's call for a student whose pictures or texts are not of the sizes that it would take.

    The stock pipelines take the usual size for 8 pixels a latent position, and texts of the usual length, whatever
    their VAE and tokenizers are.
    """
    family = found.family
    if not isinstance(family, TextToImageFamily):
        return ""
    sized, usual = family.sized_by(locate(*found.base, CONFIGS)), usual_size(found)
    told = {}
    if sized.vae_factor != family.vae_factor or (usual.width, usual.height) != (USUAL_SIDE, USUAL_SIDE):
        told |= family.asked_size(usual.height, usual.width)
    if usual.frames is not None:
        told["num_frames"] = usual.frames
    if sized.text_length != family.text_length:
        told["max_sequence_length"] = sized.text_length
    return "".join(f", {name}={value}" for name, value in told.items())


def base_told(base: str) -> tuple[str, str]:
    """A line of imports, and the base as ``from_pretrained`` takes it: piflow alone knows where its own lies."""
    if base.startswith(SHIPPED_PREFIX):
        return "from piflow_cli.weights.locate import locate\n", f"locate({base!r})"
    return "", repr(base)


def saved(family: TeacherFamily, call: str, name: str) -> tuple[str, str]:
    """A line of imports, and a statement that saves what the ``call`` of a pipeline makes as ``name``."""
    if isinstance(family, TextToImageFamily):
        return family.saved(call, name)
    return "", f'{call}.images[0].save("{name}.png")'


def sampling_call(facts: StudentFacts, sizes: str = "") -> str:
    """The arguments of a pipeline's call: a prompt or classes, those against guidance of its own, and ``sizes``."""
    family = family_of(facts.family, facts.guidance)
    steps = f"num_inference_steps={facts.nfe}"
    if not isinstance(family, TextToImageFamily):
        return f"[0, 1, 2], {steps}"
    if family.modular_blocks is not None:
        # Its guider, which opening() gives it, keeps it from guiding.
        return f'prompt="a red fox", {steps}{sizes}'
    asked = 'image=load_image("picture.png"), prompt="make it night"' if family.shown else '"a red fox"'
    return f"{asked}, {steps}, {unguided(family)}{sizes}"
