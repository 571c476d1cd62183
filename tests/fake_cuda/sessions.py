"""Training sessions of shipped presets on a fake GPU: teachers without weights, texts without words."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from piflow_cli.console import SILENT
from piflow_cli.core.tensors import to_device
from piflow_cli.data.batches import Batch
from piflow_cli.presets.resolve import load, resolve
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import ClassConditionalFamily, Conditioning, TeacherFamily, guidance_of
from piflow_cli.teachers.folders import outline_folder
from piflow_cli.training import opening
from piflow_cli.training.loop import Session

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
DEPTHS = {"num_layers": 1, "num_single_layers": 1, "n_layers": 1, "n_refiner_layers": 1}  # of a small model, as wide
SHARED = ["optimisation.optimizer=adamw"]  # bitsandbytes' own kernels know no fake tensors


@dataclass(frozen=True)
class Texts:
    """Training data of ``shape`` (C, *S) and one ``conditioning``, whatever the place."""

    shape: tuple[int, ...]
    conditioning: Conditioning
    data_free: bool
    fingerprint: str = "none"

    def batch(self, seed: int, place: int, size: int) -> Batch:
        told = {
            name: torch.ones(size, *value.shape[1:], dtype=value.dtype) for name, value in self.conditioning.items()
        }
        return Batch((size, *self.shape), told, None if self.data_free else torch.zeros(size, *self.shape))


@contextlib.contextmanager
def parameters_that_move() -> Iterator[None]:
    """``nn.Module.to`` for fake parameters: torch cannot set their data, so new ones take the places of what moves.

    What stays is kept: an optimiser may hold it.
    """

    def moved(value: nn.Parameter, fn: Any) -> nn.Parameter:
        there = fn(here := value.detach())
        return value if there is here else nn.Parameter(there, value.requires_grad)

    def apply(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
        for part in module.modules() if recurse else (module,):
            held = [(name, value) for name, value in part._parameters.items() if value is not None]
            part._parameters.update({name: moved(value, fn) for name, value in held})
            part._buffers.update({name: fn(value) for name, value in part._buffers.items() if value is not None})
        return module

    with mock.patch.object(nn.Module, "_apply", apply):
        yield


def session_of(
    name: str, settings: Sequence[str] = (), *, small: bool = False, batch: int = 1, rounds: int = 1
) -> Session:
    """The session that ``piflow distill --teacher NAME`` opens, of a teacher with random weights, on "cuda".

    ``small``: one block of each kind, as wide as ever. A step takes ``rounds`` of ``batch`` trajectories. Call it
    under a FakeTensorMode.
    """
    section = load(name).teacher
    family = family_of(section.family, section.guidance)
    of_class = isinstance(family, ClassConditionalFamily)
    sizes = [f"optimisation.batch_size={batch * rounds}", f"optimisation.device_batch_size={batch}"]
    source = {} if of_class else {"data.prompts": "-"}
    preset = resolve(name, None, [*SHARED, *sizes, *settings], source)
    with torch.device("meta"):
        outline = family.outline(outline_folder(family, section)) if of_class else family.build(_config(name))
        told = family.longest_conditioning(outline)
    config = json.loads(outline.to_json_string()) | (
        {key: value for key, value in DEPTHS.items() if key in outline.config} if small else {}
    )
    if guidance_of(preset.teacher).scale != 1 and not of_class:
        told |= {f"negative_{key}": value for key, value in told.items()}
    data = Texts(_state_shape(family, outline, preset.data.resolution), told, preset.data_free)
    family = _without_weights(family, config)
    with mock.patch.multiple(
        opening,
        family_of=lambda *given: family,
        teacher_folder=lambda *given: Path(),
        open_data=lambda *given: data,
        open_gallery=lambda *given: None,
    ):
        return opening.open_session(preset, Path(tempfile.mkdtemp()), "cuda", SILENT)


def _config(name: str) -> dict:
    """The configuration of the released network of a preset; that of its class where none is kept with the tests."""
    known = [path for path in CONFIGS.glob("*.json") if name.startswith(path.stem)]
    return json.loads(max(known, key=lambda path: len(path.stem)).read_text()) if known else {}


def _without_weights(family: TeacherFamily, config: dict) -> TeacherFamily:
    made = copy.copy(family)
    made.load = lambda folder, dtype=torch.float32: family.build(config).to("cuda", dtype).eval()  # ty: ignore
    made.outline = lambda folder: _unmade(family, config)  # ty: ignore
    return made


def _unmade(family: TeacherFamily, config: dict) -> nn.Module:
    with torch.device("meta"):
        return family.build(config)


def _state_shape(family: Any, outline: Any, side: int | None) -> tuple[int, ...]:
    if isinstance(family, ClassConditionalFamily):
        return tuple(family.sample_shape(outline))
    assert side is not None
    return family.latent_channels(outline.config), side // family.vae_factor, side // family.vae_factor


def noise_of(session: Session) -> tuple[Tensor, Conditioning]:
    """Noise and conditioning of one round, on the device."""
    batch, family = session.data.batch(0, 0, session.batches.device_batch), session.student.family
    return torch.empty(batch.shape, device="cuda"), to_device(
        batch.conditioning, torch.device("cuda"), family.read_on_host
    )
