"""Training sessions of shipped presets, on a fake GPU or a real device: no teacher has weights, no text has words."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from piflow_cli.console import SILENT
from piflow_cli.core.tensors import to_device
from piflow_cli.data.batches import Batch
from piflow_cli.presets.resolve import load, resolve
from piflow_cli.presets.schema import DataSection
from piflow_cli.sampling.text_specs import size_of
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import Conditioning, TeacherFamily, guidance_of
from piflow_cli.teachers.class_conditional import ClassConditionalFamily
from piflow_cli.teachers.folders import config_folder, outline_folder
from piflow_cli.training import opening
from piflow_cli.training.loop import Session
from piflow_cli.weights.locate import network_folder

# Of a small model, as wide.
DEPTHS = {"num_layers": 1, "num_single_layers": 1, "n_layers": 1, "n_refiner_layers": 1, "num_blocks": 1}
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
    """Fake tensors whose ``data`` may be set to those of another device, as ``nn.Module.to`` does, and be pinned."""

    def apply(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
        for part in module.modules() if recurse else (module,):
            for name, value in part._parameters.items():
                if isinstance(value, FakeTensor) and not value.is_meta:
                    value.data = fn(value.data)
                elif value is not None and (there := fn(here := value.detach())) is not here:
                    part._parameters[name] = nn.Parameter(there, value.requires_grad)
            part._buffers.update({name: fn(value) for name, value in part._buffers.items() if value is not None})
        return module

    def set_data(value: FakeTensor, other: Tensor) -> None:
        Tensor.data.__set__(value, other)
        value.fake_device = other.device

    def pinned(value: Tensor) -> Tensor:
        return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value)

    fakes = {"pin_memory": pinned, "is_pinned": lambda value: True}
    data = property(lambda value: Tensor.data.__get__(value), set_data)
    with (
        mock.patch.object(nn.Module, "_apply", apply),
        mock.patch.multiple(FakeTensor, data=data, create=True, **fakes),
    ):
        yield


def session_of(
    name: str,
    settings: Sequence[str] = (),
    *,
    small: bool = False,
    batch: int = 1,
    rounds: int = 1,
    device: str = "cuda",
    sizes: Mapping[str, Any] | None = None,
) -> Session:
    """The session that ``piflow distill --teacher NAME`` opens, of a teacher with random weights, on ``device``.

    ``small``: one block of each kind, as wide as ever. A step takes ``rounds`` of ``batch`` trajectories. ``sizes``:
    other values of the network's configuration. Under a FakeTensorMode nothing is computed.
    """
    section = load(name).teacher
    family = family_of(section.family, section.guidance)
    of_class = isinstance(family, ClassConditionalFamily)
    if not of_class:
        family = family.sized_by(config_folder(section))
    sizes = {} if sizes is None else sizes
    batches = [f"optimisation.batch_size={batch * rounds}", f"optimisation.device_batch_size={batch}"]
    source = {} if of_class else {"data.captioned" if family.shown else "data.prompts": "-"}
    preset = resolve(name, None, [*SHARED, *batches, *settings], source)
    with torch.device("meta"):
        outline = (
            family.outline(outline_folder(family, section)) if of_class else family.build({**_config(name), **sizes})
        )
        told = family.longest_conditioning(outline)
    config = json.loads(outline.to_json_string()) | (
        {key: value for key, value in DEPTHS.items() if key in outline.config} if small else {}
    )
    if guidance_of(preset.teacher).scale != 1 and not of_class:
        told |= {f"negative_{key}": value for key, value in told.items()}
    shape = _state_shape(family, outline, preset.data)
    if not of_class:
        told |= family.longest_reference(shape)
    data = Texts(shape, told, preset.data_free)
    family = _without_weights(family, config, device)
    with mock.patch.multiple(
        opening,
        family_of=lambda *given: family,
        teacher_folder=lambda *given: Path(),
        open_data=lambda *given: data,
        open_gallery=lambda *given: None,
    ):
        return opening.open_session(preset, Path(tempfile.mkdtemp()), device, SILENT)


def _config(name: str) -> dict:
    """The configuration of the released network of a preset, which ships."""
    return json.loads((network_folder(config_folder(load(name).teacher)) / "config.json").read_text())


def _without_weights(family: TeacherFamily, config: dict, device: str) -> TeacherFamily:
    """The family with a teacher of ``config`` in the place of a released one."""

    def load(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        if isinstance(torch.empty(()), FakeTensor):
            return family.build(config).to(device, dtype).eval()
        with init_empty_weights(include_buffers=False):
            model = family.build(config)
        return drawn(model, torch.device(device), dtype).eval()

    made = copy.copy(family)
    made.load, made.outline = load, lambda folder: _unmade(family, config)  # ty: ignore
    return made


def drawn(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """``model`` on ``device`` with random matrices, gains of 1 and biases of 0; on a CPU billions take minutes.

    What is no parameter stays where the constructor has put it until the model is moved, as after loading.
    """
    draw = torch.Generator(device).manual_seed(0)
    for part in model.modules():
        for name, value in part._parameters.items():
            if value is None:
                continue
            made = torch.empty(value.shape, device=device, dtype=dtype)
            if value.ndim > 1:
                made.normal_(std=value[0].numel() ** -0.5, generator=draw)
            else:
                made.fill_(0.0 if name.endswith("bias") else 1.0)
            part._parameters[name] = nn.Parameter(made, value.requires_grad)
    return model.to(device, dtype)


def _unmade(family: TeacherFamily, config: dict) -> nn.Module:
    with torch.device("meta"):
        return family.build(config)


def _state_shape(family: Any, outline: Any, data: DataSection) -> tuple[int, ...]:
    if isinstance(family, ClassConditionalFamily):
        return tuple(family.sample_shape(outline))
    size = size_of(data)
    return family.latent_shape(outline.config, (size.width, size.height), size.frames)


def noise_of(session: Session) -> tuple[Tensor, Conditioning]:
    """Noise and conditioning of one round, on the device."""
    batch, family = session.data.batch(0, 0, session.batches.device_batch), session.student.family
    device = session.accelerator.device
    return torch.empty(batch.shape, device=device), to_device(batch.conditioning, device, family.read_on_host)
