"""One training loop for all stages: an average of the weights, a rate that ends at zero, resumable checkpoints."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.attention import without_cudnn_attention
from ...system.files import replacing_file
from .precision import training_precision
from .recipe import Schedule

Loss = Callable[[nn.Module, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Limits:
    """What bounds a run and paces its reports, and shapes no weights unless the time runs out.

    seconds: of training, earlier sittings counted in; the rate's decay ends with them. None: no limit.
    log_every: iterations from one line to the next; checkpoints are written there and nowhere else.
    save_seconds: the shortest time from one checkpoint to the next.
    """

    seconds: float | None = None
    log_every: int = 200
    save_seconds: float = 60.0


@dataclass
class Course:
    """How far a run has come: iterations done, seconds of training, and the mean loss before every line of the log.

    sittings: one a start of the program: the iteration it began at, its device, and the schedule it was asked for.
    """

    done: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    sittings: list[dict[str, Any]] = field(default_factory=list)

    def progress(self, schedule: Schedule, limits: Limits) -> float:
        """From 0 to 1, by iterations or by time, whichever is nearer to its end."""
        by_time = 0.0 if limits.seconds is None else self.seconds / limits.seconds
        return max(self.done / schedule.iterations, by_time)


def learning_rate(done: int, progress: float, schedule: Schedule) -> float:
    """Linear warm-up, then a cosine to zero at the end of the iterations or of the time."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return schedule.learning_rate * cosine * min(1.0, (done + 1) / schedule.warmup)


def new_optimizers(
    trained: Sequence[Tensor], matrices: Sequence[Tensor], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW for what is ``trained`` but the ``matrices``, and Muon for these; their rates are set at every step."""
    apart = {id(matrix) for matrix in matrices}
    others = [value for value in trained if id(value) not in apart]
    adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    if not matrices:
        return [adam]
    if not hasattr(torch.optim, "Muon"):
        without = "--no-teacher-muon --no-guidance-muon"
        raise SystemExit(f"torch 2.9 and later have Muon: pip install -U torch, or go without it: {without}")
    # Its steps are scaled to the size of AdamW's, so that one rate serves both.
    return [adam, torch.optim.Muon(matrices, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")]


class Run:
    """A run with its checkpoint at ``place``, which it goes on from where there is one.

    matrices: those of the model's parameters that Muon trains. rate: the option of the schedule's learning rate; None:
    it has ``name`` in it.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        schedule: Schedule,
        place: Path,
        limits: Limits,
        matrices: Sequence[Tensor] = (),
        rate: str | None = None,
    ) -> None:
        self.rate = f"--{name}-learning-rate" if rate is None else rate
        self.name, self.model, self.schedule, self.place, self.limits = name, model, schedule, place, limits
        self.device = next(model.parameters()).device
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        self.trained: list[Tensor] = list(model.parameters())
        self.averages: list[Tensor] = list(self.ema.parameters())
        self.optimizers = new_optimizers(self.trained, matrices, schedule.weight_decay)
        self.generator = torch.Generator(self.device).manual_seed(schedule.seed)
        self.course = Course()
        if place.exists():
            self._resume()

    @property
    def finished(self) -> bool:
        return self.course.progress(self.schedule, self.limits) >= 1

    @without_cudnn_attention()
    def train(self, loss_of: Loss) -> None:
        """Train to the end of the iterations or of the time; the mean loss and the rate are told on stderr."""
        course, limits = self.course, self.limits
        if self.finished:
            return
        self.model.train()
        course.sittings.append({"from": course.done, **self._device_facts(), **asdict(self.schedule)})
        self._warm_up(loss_of)
        before, began = course.seconds, time.monotonic()
        saved = began
        total = torch.zeros((), device=self.device)
        counted = 0
        while not self.finished:
            self._step(loss_of, total)
            counted += 1
            course.seconds = before + time.monotonic() - began
            if course.done % limits.log_every == 0 or self.finished:
                self._tell(total.item() / counted)
                total.zero_()
                counted = 0
                # What the device still had to do is waited for now.
                course.seconds = before + time.monotonic() - began
                if self.finished or time.monotonic() - saved >= limits.save_seconds:
                    self.save()
                    saved = time.monotonic()

    def _warm_up(self, loss_of: Loss) -> None:
        """Let the device compile and choose its kernels, which is no training; nothing of it stays."""
        with training_precision(self.device):
            loss = loss_of(self.model, self.course.done, torch.Generator(self.device).manual_seed(0))
        loss.backward()
        self.model.zero_grad()
        loss.item()

    def _step(self, loss_of: Loss, total: Tensor) -> None:
        course, schedule = self.course, self.schedule
        rate = learning_rate(course.done, course.progress(schedule, self.limits), schedule)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        with training_precision(self.device):
            loss = loss_of(self.model, course.done, self.generator)
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, schedule.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        course.done += 1
        # A short memory at first, or the random start would linger in the average.
        decay = min(schedule.ema, course.done / (course.done + 9))
        torch._foreach_lerp_(self.averages, self.trained, 1 - decay)
        total += loss.detach()

    def _tell(self, loss: float) -> None:
        course = self.course
        if not math.isfinite(loss):
            lower = f"{self.rate} {self.schedule.learning_rate / 2:g}"
            raise SystemExit(f"{self.name}: the loss is {loss} at iteration {course.done}; lower its rate: {lower}")
        course.losses.append((course.done, loss))
        line = f"{self.name}: iteration {course.done} of {self.schedule.iterations}, loss {loss:.5f}"
        print(f"{line}, {course.seconds:.1f} s", file=sys.stderr, flush=True)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "course": asdict(self.course),
        }
        with replacing_file(self.place) as aside:
            torch.save(state, aside)

    def _resume(self) -> None:
        state = read_checkpoint(self.place)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        with contextlib.suppress(RuntimeError):  # a checkpoint of another kind of device has another generator's state
            self.generator.set_state(state["generator"])
        self.course = Course(**state["course"])

    def facts(self) -> dict[str, Any]:
        """What was made, for the metadata."""
        return {
            "iterations_done": self.course.done,
            "seconds": round(self.course.seconds, 1),
            "final_loss": self.course.losses[-1][1],
            "losses": self.course.losses,
            "sittings": self.course.sittings,
        }

    def _device_facts(self) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            "torch": str(torch.__version__),  # whose own kind of text is no plain one
        }


def read_checkpoint(place: Path) -> dict[str, Any]:
    """A run's checkpoint, on the CPU."""
    return torch.load(place, map_location="cpu", weights_only=True)


def average_of(place: Path) -> dict[str, Tensor]:
    """The averaged weights of a finished run, rounded to bfloat16 as they are shipped, in float32."""
    state = read_checkpoint(place)["ema"]
    return {name: value.bfloat16().float() if value.is_floating_point() else value for name, value in state.items()}
