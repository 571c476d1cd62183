"""Load students, and sample images."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Annotated, cast

import torch
from PIL import Image
from typing_extensions import Unpack

from ..console import SILENT
from ..errors import UsageError
from ..sampling.request import SampleRequest
from ..sampling.sample import sample as run
from ..students.open import find_student
from ..students.shared_base import View
from ..students.student import Student
from ..system.devices import choose_device
from .arguments import Device, FileOrFolder, Source, Speaker, Taken, Texts, Word, instance_of
from .calls import public, request_of
from .options import SampleOptions

Dtype = Annotated[torch.dtype, Taken("a dtype, like torch.bfloat16", instance_of(torch.dtype))]
Loaded = Annotated[Student, Taken("a loaded student", instance_of(Student))]


@public()
def load_student(
    student: Source,
    *,
    device: Device = "cpu",
    dtype: Dtype | None = None,
    teacher: Source | None = None,
    base: Source | None = None,
    subfolder: Word | None = None,
    console: Speaker = SILENT,
) -> Student:
    """A student with its weights, ready to be called.

    Args:
        student: a run folder, an adapter's folder or file, or a Hub id.
        device: where the network goes.
        dtype: precision of a base and its adapters; default: as trained.
        teacher: the preset of a student without facts of its own.
        base: place of the base, in place of the one that the student names.
        subfolder: folder inside ``student``.
        console: takes lines on what was assumed.

    Returns a :class:`~piflow_cli.students.student.Student`: ``.facts`` says how it was trained, ``.model`` is the
    network, ``.policy(model, x, raw, conditioning)`` evaluates it once at states (B, C, *S), and ``.scheduler()`` is
    the sampler that stock pipelines of diffusers take.

    Raises:
        UsageError: there is no such student, it was distilled from another teacher, or has no use for base or dtype.
        RunError: its files are damaged, or the Hub cannot be reached.

    >>> import piflow_cli as piflow
    >>> student = piflow.load_student("runs/short")
    >>> student.facts.policy, student.facts.nfe, student.scheduler(substeps=64).config.substeps
    ('gm', 2, 64)
    """
    place = choose_device(device)
    # As texts, which they are by now.
    preset, folder = cast("str | None", teacher), cast("str | None", base)
    found = find_student(student, preset, folder, subfolder=subfolder, say=console.say)
    loaded = found.load(dtype=dtype)
    if dtype not in (None, torch.float32) and not isinstance(loaded.model, View):
        raise UsageError(
            f"{dtype} is of a base below adapters, and this student brings all of its weights", "leave dtype out"
        )
    loaded.model.to(place)
    return loaded


@public(SampleOptions, SampleRequest)
def sample(
    student: Source | Loaded | None = None,
    prompts: Texts = (),
    *,
    output: FileOrFolder | None = None,
    device: Device | None = None,
    console: Speaker = SILENT,
    **options: Unpack[SampleOptions],
) -> list[Image.Image]:
    """Images of a student, or of a teacher for comparison, as `piflow sample` makes them.

    Args:
        student: as ``load_student`` takes or gives it; None samples ``teacher`` itself.
        prompts: a text, or several, of a text-to-image student.
        seeds: one image for each seed and prompt; default: 0 to 63, or one for each prompt.
        labels: classes of a class-conditional student; seed s shows label s modulo their number; default: all.
        steps: network evaluations per image.
        shift: shift of the time grid towards noise; default: as trained.
        substeps: policy substeps per unit of raw time; default: as trained.
        temperature: temperature of the mixture, ``auto`` or at most 1; default: as trained.
        stochastic: noise put back between steps; 0 is none.
        guidance: guidance scale of a teacher; a student has its own distilled in.
        teacher: a preset; beside a student, the one that it must have been distilled from.
        base, subfolder: as in ``load_student``.
        vae: the VAE that decodes latents; default: as trained.
        prompts_from, text_column: a file or data set of prompts.
        references: a picture to edit, or one for each prompt, of a model that edits pictures.
        height, width: size in pixels.
        frames: of each video; default: as trained.
        mp4: write videos as MP4 too, beside GIF; default: where the package av is installed.
        loras: further adapters, each with its scale.
        base_precision, offload, compile, device, batch_size: how to compute; default: on the GPU if there is one, and
            a loaded student where it is.
        output: a new or empty folder for the images and a grid.
        overwrite: replace the images of an earlier call in that folder.
        console: takes progress and warnings.

    Returns the images in the order of prompts and seeds, 8 bits a channel; ``image.info["piflow"]`` is the recipe of
    each as JSON. A video is an animated GIF, whose recipe is ``image.info["comment"]``. An image depends on its seed,
    and its label or prompt, not on the batch it is made in. Processes that torchrun or accelerate started share the
    work, and the first of them gets the images; the others get none.

    Raises:
        UsageError: what is asked does not go together, or is not there, with all faults of the numbers.
        RunError: files are damaged, or the pictures are not finite.

    >>> import piflow_cli as piflow
    >>> images = piflow.sample("runs/short", seeds=range(4), labels=[3, 5])
    >>> len(images), images[0].size
    (4, (8, 8))
    """
    with tempfile.TemporaryDirectory() as folder:
        request = request_of(
            SampleRequest, options, student=student, prompts=prompts, device=_device(student, device),
            output=Path(folder if output is None else output), grid=output is not None,
        )  # fmt: skip
        return [_read(path) for path in run(request, console)["images"]]


def _device(student: object, device: str | None) -> str:
    """A loaded student stays on its device, unless another is asked for."""
    if device is not None:
        return device
    return str(student.device) if isinstance(student, Student) else SampleRequest.device


def _read(path: Path) -> Image.Image:
    """A picture in memory, with its recipe, so that its file may go; of a video all frames."""
    image = Image.open(BytesIO(path.read_bytes()))
    image.load()
    return image
