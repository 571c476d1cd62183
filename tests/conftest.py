"""What every test stands on: a fixed terminal, reproducible hypothesis runs, and the command line as a function."""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from piflow_cli.sampling.request import SampleRequest
from hypothesis import settings
from tiers import listed, marked, thorough

# Read when the help is first drawn, so set before anything is imported.
os.environ.update(TERMINAL_WIDTH="80", NO_COLOR="1", COLUMNS="80")
# Tensors here are tiny, and the workers already share the cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("PIFLOW_DEBUG", None)
# What tests write need not survive a power cut, and disks are slow; tests/faults puts its own in this place.
os.fsync = lambda number: None

# Under nohup a hang-up is ignored, and runs respect that; tests say themselves where it is meant.
if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples each time; more of them by hand: PIFLOW_EXAMPLES=1000 pytest.
settings.register_profile(
    "piflow", deadline=None, derandomize=True, max_examples=int(os.environ.get("PIFLOW_EXAMPLES", "50"))
)
settings.load_profile("piflow")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while modules are imported: they stay, and looking at them takes a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow, at_length = listed(), thorough()
    for item in items:
        marked(item, slow, at_length)
    # Those that take minutes begin first: a worker that begins one last is waited for.
    items.sort(key=lambda item: item.get_closest_marker("long") is None or item.path.parent.name != "fake_cuda")


@pytest.fixture(scope="module", autouse=True)
def _spared() -> None:
    """Keep what was imported out of collections: commands ask for them, and each takes half a second then."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`cli("distill", "--teacher", "digits")` through the console script's own entry point."""
    from piflow_cli.app import main

    def run(*args: str) -> Outcome:
        code = main(list(args))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def nothing_refused(monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    """Let a command take students and files that are not there."""
    module = import_module(f"piflow_cli.{room}.early")
    monkeypatch.setattr(module, "check", lambda request: None)


@pytest.fixture
def much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of published sizes fit this machine; else they look for settings that do, which takes longer than they."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**15))
    monkeypatch.setattr("piflow_cli.training.dry_run.room.GROUP", Path("nowhere"))


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and each is the same small picture on a page or in a file: for tests of what else there is."""
    from PIL import Image

    from piflow_cli.reports.page import png_bytes

    for report in ("inspection", "evaluation"):
        monkeypatch.setattr(f"piflow_cli.{report}.report.figure_png", lambda *of: png_bytes(Image.new("L", (2, 2))))
    monkeypatch.setattr("piflow_cli.reports.page.figure_svg", lambda figure, label: '<svg class="plot"></svg>')


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: object) -> None:
    """Put a module in the place of one whose import alone takes seconds; what is inside of it is the real one's."""
    module = ModuleType(f"piflow_cli.{name}")
    module.__path__ = [str(Path(str(import_module("piflow_cli").__file__)).parent.joinpath(*name.split(".")))]
    for key, value in attributes.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, f"piflow_cli.{name}", module)


class Training:
    """Stands in for piflow_cli.training and remembers what it was asked."""

    def __init__(self) -> None:
        self.runs: list[dict] = []
        self.failure: BaseException | None = None

    def describe(self, preset, output, device, processes, parallel):
        return {
            "preset": preset.name,
            "policy": {"kind": preset.policy.kind, "nfe": preset.policy.nfe},
            "device": device,
            "processes": processes,
            "parallel": parallel,
            "folder": str(output),
        }

    def distill(self, preset, output, device, resume, console, parallel, fork=None, began=None):
        if self.failure is not None:
            raise self.failure
        asked = {"device": device, "resume": resume, "parallel": parallel, "fork": fork}
        self.runs.append({"preset": preset, "output": output, **asked})
        console.say("training")
        return {"output": output, "loss": math.nan}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    recorder = Training()
    fake_module(monkeypatch, "training", describe=recorder.describe, distill=recorder.distill)
    return recorder


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[SampleRequest]:
    """What `piflow sample` asks of the library, in place of its answer."""
    asked: list[SampleRequest] = []

    def sample(request, console):
        asked.append(request)
        return {"images": 64 if request.seeds is None else len(request.seeds)}

    fake_module(monkeypatch, "sampling.sample", sample=sample)
    nothing_refused(monkeypatch, "sampling")
    return asked


@pytest.fixture(scope="session")
def tiny_teacher(few_columns: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset whose teacher is a random DiT of 4x4 images with three classes: `--teacher tiny.yaml`."""
    import torch
    import yaml
    from safetensors.torch import save_file
    from tiny_presets import SUMMARY, optimisation
    from tiny_students import tiny_dit

    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_dit(in_channels=1)
    model.save_pretrained(folder / "teacher")
    images = torch.randint(0, 256, (20, 4, 4), dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(20) % 3}, folder / "images.safetensors")
    preset = {
        "name": "tiny",
        "summary": SUMMARY,
        "teacher": {"family": "dit", "base": str(folder / "teacher"), "license": "none", "memory": "none"},
        "data": {"images": str(folder / "images.safetensors")},
        "policy": {"kind": "gm", "components": 3, "nfe": 1, "substeps": 16, "logstd_width": 8},
        "imitation": {
            "states": 2,
            "window": 0,
            "dropout": 0.1,
            "mixing_iterations": 0,
            "loss_scale": 1.0,
            "data_free": False,
        },
        "optimisation": optimisation(iterations=6, batch_size=8, warmup=2),
        "output": {"preview_every": 3, "checkpoint_every": 2, "keep_checkpoints": 2},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a student of two evaluations, barely trained. Tests read it, and write nothing into it."""
    from piflow_cli.app import main

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    told = ["--teacher", str(tiny_teacher), "--nfe", "2", "--iterations", "2", "--quiet"]
    assert main(["distill", *told, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def few_columns() -> Iterator[None]:
    """Most of a tiny run would be the drawing of its pictures: two a row show what ten do."""
    from piflow_cli.training import previews

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(previews, "COLUMNS", 2)
        yield


@pytest.fixture
def other_precision() -> Iterator[None]:
    """accelerate keeps the precision of a process for good."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command keeps stays in the folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tiny_vae(few_columns: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random AutoencoderKL: latents of 4 channels, two pixels a latent position each way."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    size = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**size, **blocks, sample_size=16).save_pretrained(folder)
    return folder


@pytest.fixture
def small_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """References of Qwen-Image-Edit cover 64 x 96 pixels, and not a million, in the stock pipeline too."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus

    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 64 * 96)


@pytest.fixture
def text_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of n letters become the zoo's text of n tokens; everything around that is the real thing."""
    from types import SimpleNamespace

    from zoo import EDITS, ZOO, reading

    from piflow_cli.teachers import families
    from piflow_cli.teachers.text_to_image import TextToImageFamily

    monkeypatch.setattr(TextToImageFamily, "beside_steps", 2)
    pipeline = SimpleNamespace(to=lambda device: pipeline)
    for row in ZOO.values():
        kind = families()[row.family]
        monkeypatch.setattr(kind, "text_pipeline", lambda self, folder: pipeline)
        monkeypatch.setattr(
            kind, "encode_prompts", lambda self, used, texts, row=row: [row.encode(len(text) + 1) for text in texts]
        )
        monkeypatch.setattr(kind, "token_counts", lambda self, used, texts, *seen: [len(text) for text in texts])
    for row in EDITS.values():
        kind = families()[row.family]
        if kind.sees:
            monkeypatch.setattr(kind, "encode_prompts", lambda self, used, *told, row=row: reading(row, *told))
            monkeypatch.setattr(kind, "token_counts", lambda self, used, texts, *seen: [len(text) for text in texts])
