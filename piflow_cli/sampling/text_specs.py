"""What pictures of prompts are asked for: texts, seeds and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from ..data.buckets import buckets_of, nearest_bucket
from ..data.pictures import Unreadable, open_picture, upright_size
from ..data.prompts import Prompt, read_prompts, refuse_column_of_lines
from ..errors import RunError, UsageError
from ..errors.table import INSTALL_HINTS
from ..presets.bounds import IMAGES, SIDE
from ..presets.contradictions import USUAL_FRAMES, USUAL_SIDE
from ..presets.families import frames_near
from .request import MP4_PACKAGE, ImageSpec, SampleRequest, writes_mp4

if TYPE_CHECKING:
    from ..data.buckets import Size
    from ..presets.schema import DataSection
    from ..students.open import FoundStudent, LoadedStudent
    from ..teachers.text_to_image import TextToImageFamily

T = TypeVar("T")


@dataclass(frozen=True)
class UsualSize:
    """Width and height in pixels where none are asked for, and the frames of a video, None where they are not known."""

    width: int = USUAL_SIDE
    height: int = USUAL_SIDE
    frames: int | None = None


def usual_size(found: FoundStudent | LoadedStudent) -> UsualSize:
    """The size of what a student makes where none is asked for: that of its training, if it is known."""
    try:
        return size_of(found.preset().data)
    except (UsageError, RunError):
        # A student can be sampled without its preset.
        return UsualSize()


def usual_sizes(found: FoundStudent | LoadedStudent, family: TextToImageFamily) -> tuple[UsualSize, ...]:
    """The :func:`usual_size` of a student, and after it the other sizes of its training, if they are known."""
    try:
        return sizes_of(found.preset().data, family)
    except (UsageError, RunError):
        return (usual_size(found),)


def sizes_of(section: DataSection, family: TextToImageFamily) -> tuple[UsualSize, ...]:
    """The :func:`size_of` a preset, and after it all sizes that it trains on where pictures have their own."""
    sized = section.resolution is not None or bool(section.sizes)
    others = buckets_of(section, family.size_multiple) if family.shown and sized else ()
    return (size_of(section), *(UsualSize(*size, section.frames) for size in others))


def size_of(section: DataSection) -> UsualSize:
    """The size of what a preset trains on; the first of several."""
    if section.sizes:
        return UsualSize(*section.sizes[0], section.frames)
    side = USUAL_SIDE if section.resolution is None else section.resolution
    return UsualSize(side, side, section.frames)


def specs_of(request: SampleRequest, family: TextToImageFamily, usual: Sequence[UsualSize]) -> tuple[ImageSpec, ...]:
    """Every prompt with every seed; options win over the lines of a file of prompts, and those over the ``usual`` size.

    That is the first of those, or where a picture is edited the one that is nearest to its shape.

    Raises UsageError where there is no prompt, a size that the family cannot make, or an option for other models.
    """
    if request.labels is not None:
        raise UsageError(
            "--labels: the model is told a text, not a class", 'type a prompt instead: piflow sample RUN "a red fox"'
        )
    if request.vae is not None:
        raise UsageError("--vae: the VAE of a text-to-image model is that of its base", "leave --vae out")
    if request.prompts and request.prompts_from is not None:
        raise UsageError("a prompt is given, and --prompts too", "keep one of them")
    if not request.prompts and request.prompts_from is None:
        raise UsageError(
            "the model is told a text, and none is given",
            'type a prompt: piflow sample RUN "a red fox", or --prompts FILE',
        )
    refuse_column_of_lines(request.prompts_from, request.text_column)
    if request.text_column is not None and request.prompts_from is None:
        raise UsageError(
            "--text-column belongs to a file of prompts, and none is given",
            "name it: --prompts FILE; or leave --text-column out",
        )
    sampler = request.prompts_from
    told = [prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in request.prompts]
    if any(not prompt.text.strip() for prompt in told):
        raise UsageError("the prompt is empty", 'type a prompt: piflow sample RUN "a red fox"')
    prompts = told if sampler is None else read_prompts(sampler, request.text_column)
    references = references_of(request, family, len(prompts))
    specs, frames = [], _frames(request, family, usual[0])
    if request.seeds is not None and len(prompts) * len(request.seeds) > IMAGES.most:
        raise UsageError(
            f"{len(prompts)} prompts times {len(request.seeds)} seeds: more than {IMAGES.text} pictures",
            "ask for fewer: --seeds 0-3",
        )
    for number, prompt in enumerate(prompts):
        place = f" (prompt {number + 1}{'' if sampler is None else f' of {sampler}'})"
        reference = references[number]
        nearest = usual[0] if reference is None else _nearest(_size_of_picture(reference), usual)
        size = _size(request, prompt, family, nearest, place)
        for seed in (0 if prompt.seed is None else prompt.seed,) if request.seeds is None else request.seeds:
            spec = ImageSpec(seed, prompt=prompt.text, number=number, size=size, reference=reference, frames=frames)
            specs.append(spec)
    return tuple(specs)


def _frames(request: SampleRequest, family: TextToImageFamily, usual: UsualSize) -> int | None:
    """The frames of each video; None where pictures are made."""
    step = family.frame_step
    if step is None:
        for option, given in {"--frames": request.frames, "--mp4": request.mp4}.items():
            if given:
                raise UsageError(f"{option} is of videos, and this model makes pictures", f"leave {option} out")
        return None
    if request.mp4 and not writes_mp4():
        raise UsageError(f"--mp4 needs the package {MP4_PACKAGE}", INSTALL_HINTS[MP4_PACKAGE])
    frames = usual.frames if request.frames is None else request.frames
    if frames is None:
        raise UsageError(
            "how many frames the student was trained for is not known, and none are asked for",
            f"type --frames {USUAL_FRAMES // step * step + 1}, or name its preset: --teacher NAME",
        )
    if frames not in (near := frames_near(frames, step)):
        raise UsageError(
            f"--frames {frames}: this model makes videos of {step} n + 1 frames",
            f"take the nearest: {' or '.join(f'--frames {other}' for other in near)}",
        )
    return frames


def _size(request: SampleRequest, prompt: Prompt, family: TextToImageFamily, usual: UsualSize, place: str) -> Size:
    size = []
    for name in ("width", "height"):
        given, told = getattr(request, name), getattr(prompt, name)
        side = given if given is not None else told if told is not None else getattr(usual, name)
        where = place if given is None else ""
        if side > SIDE.most:
            raise UsageError(
                f"{name} {side}{where}: more than {SIDE.text}, {SIDE.reason}", f"type --{name} {SIDE.most:.0f}, or less"
            )
        if side % family.size_multiple:
            mended = max(1, round(side / family.size_multiple)) * family.size_multiple
            raise UsageError(
                f"{name} {side}{where} is no multiple of {family.size_multiple} pixels",
                f"the nearest is {mended}: --{name} {mended}",
            )
        size.append(side)
    return size[0], size[1]


def references_of(request: SampleRequest, family: TextToImageFamily, prompts: int) -> list[str | None]:
    """The picture that each of some ``prompts`` edits; None of models that edit none.

    Raises UsageError where a model that edits pictures has none, another has some, or their number does not fit.
    """
    given = request.references
    if not family.shown:
        if given:
            raise UsageError(
                "--reference: the model is told a text alone, and edits no picture", "leave --reference out"
            )
        return [None] * prompts
    if not given:
        raise UsageError("the model edits a picture, and none is given", "name one: --reference PICTURE")
    if len(given) not in (1, prompts):
        raise UsageError(
            f"{len(given)} pictures are given to edit, for {prompts} prompt{'' if prompts == 1 else 's'}",
            "name one for all of them, or one for each: --reference PICTURE",
        )
    return [given[number % len(given)] for number in range(prompts)]


def _nearest(size: Size, usual: Sequence[UsualSize]) -> UsualSize:
    width, height = nearest_bucket(size, [(one.width, one.height) for one in usual])
    return replace(usual[0], width=width, height=height)


def _size_of_picture(path: str) -> Size:
    return _read(path, upright_size)


def opened_reference(path: str) -> Image.Image:
    """The picture at ``path``, as it is edited; raises UsageError where it cannot be read."""
    return _read(path, open_picture)


def _read(path: str, reading: Callable[[bytes], T]) -> T:
    try:
        return reading(Path(path).read_bytes())
    except (OSError, Unreadable) as error:
        raise UsageError(
            f"--reference {path} cannot be read: {error}", "name another picture: --reference PICTURE"
        ) from error
