"""`piflow sample` of a text-to-image student on the GPU that is not there: all but text encoders, weights and VAE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from piflow_cli.console import SILENT
from piflow_cli.sampling.request import ImageSpec, SampleRequest
from piflow_cli.sampling.text import EncodedPrompts
from piflow_cli.students.shared_base import root
from piflow_cli.teachers.text_to_image import TextToImageFamily
from piflow_cli.training.loop import Session

PROMPT = "a red fox"


def picture_of(session: Session, family: TextToImageFamily, steps: int, offload: str = "none") -> Callable[[], Tensor]:
    """A function that makes the latents of a picture in ``steps`` evaluations by the stock pipeline.

    The adapters of the session become what they are in sampling: no step can follow.
    """
    batch = session.data.batch(0, 0, 1)
    rows, columns = batch.shape[-2:]
    spec = ImageSpec(0, prompt=PROMPT, number=0, size=(columns * family.vae_factor, rows * family.vae_factor))
    model = root(session.student.model)
    if offload != "none":
        model.to("cpu")
    texts = {name: value[0] for name, value in batch.conditioning.items() if not name.startswith("negative_")}
    texts = {name: value.bfloat16() if value.is_floating_point() else value for name, value in texts.items()}
    encoded = EncodedPrompts(
        SampleRequest(output=Path(), prompts=(PROMPT,), offload=offload),  # ty: ignore
        family,
        Path(),
        (spec,),
        {(PROMPT, None, None): texts},
        "bf16",
        False,
        torch.device("cuda"),
        SILENT,
        {},
    )
    scheduler = session.student.scheduler(patch=family.token_positions)
    with mock.patch.object(family, "load_vae", lambda folder: nn.Identity()):
        sampler = encoded.sampler(model, ["student"], scheduler, {"steps": steps})

    def draw() -> Tensor:
        with mock.patch.object(family, "decode_latents", lambda vae, latents: latents):
            return sampler.draw([spec])

    return draw
