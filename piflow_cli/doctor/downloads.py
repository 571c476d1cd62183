"""What is downloaded once: the weights that metrics see by, and the bases that the Hub gives to some."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from ..errors import explain, first_line
from .findings import Finding, missing, works

SECONDS = 8  # for all answers of the Hub


def inception() -> Finding:
    """Inception's weights in one of the places where they are looked for."""
    from ..evaluation.extractors.inception_weights import weight_places

    places = weight_places(None)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        return missing("its weights are not there", "piflow eval STUDENT --extractor inception")
    return works(str(found), {"file": str(found)})


def alexnet() -> Finding:
    """AlexNet's weights, of the digest that torchvision names them by."""
    from ..evaluation.metrics.perceptual import lpips_weights, weights_fault

    if (fault := weights_fault()) is not None:
        return missing(fault, "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\"")
    return works(str(lpips_weights()), {"file": str(lpips_weights())})


def clip() -> Finding:
    """CLIP's config in the Hub's cache, which comes there with its weights."""
    from huggingface_hub import try_to_load_from_cache

    from ..evaluation.metrics.clip_score import CLIP

    found = try_to_load_from_cache(CLIP, "config.json")
    if not isinstance(found, str):
        return missing(f"{CLIP} is not in the Hub's cache", f"hf download {CLIP}")
    return works(f"{CLIP} is in the Hub's cache", {"file": found})


def gated() -> Finding:
    """Whether the Hub gives this account the bases of the presets; the Hub alone is asked, and only with a token."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE or get_token() is None:
        return missing("the Hub was not asked: it is to be asked with a token")
    bases = _bases()
    answers = _answers(bases)
    refused = {base: error for base, error in answers.items() if error is not None}
    facts = {"bases": {base: base in answers and base not in refused for base in bases}}
    if len(answers) < len(bases):
        return missing(f"the Hub has not answered within {SECONDS} seconds", None, facts)
    if not refused:
        return works(f"this account may download all: {', '.join(bases)}", facts)
    known = explain(next(iter(refused.values())))
    reasons: dict[str, list[str]] = {}
    for base, error in refused.items():
        reasons.setdefault(_said(error), []).append(base)
    said = "; ".join(f"{', '.join(found)}: {reason}" for reason, found in reasons.items())
    return missing(said, None if known is None else known.hint, facts)


def _bases() -> list[str]:
    """The bases of all presets that lie on the Hub."""
    from ..presets.resolve import available, load
    from ..weights.locate import hub_id

    found = (hub_id(load(name).teacher.base) for name in available())
    return sorted({place[0] for place in found if place is not None})


def _answers(bases: Sequence[str]) -> dict[str, BaseException | None]:
    """What the Hub says of each base in time: None where it gives it."""
    from huggingface_hub import auth_check

    pool = ThreadPoolExecutor(len(bases))
    asked = {pool.submit(auth_check, base): base for base in bases}
    done, _ = wait(asked, SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    return {asked[answer]: answer.exception() for answer in sorted(done, key=lambda answer: asked[answer])}


def _said(error: BaseException) -> str:
    known = explain(error) if isinstance(error, Exception) else None
    return first_line(error) if known is None else known.message
