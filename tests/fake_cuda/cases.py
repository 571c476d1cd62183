"""What is run on the GPU that is not there, and the waits for the device that it may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A training step and samplings of a preset.

    ``batch`` trajectories in each of ``rounds``; ``iteration``: of the step, where mixing, warm-up and the average
    differ; ``nfes``: evaluations of the samplings.
    """

    preset: str
    settings: tuple[str, ...] = ()
    batch: int = 1
    rounds: int = 1
    iteration: int = 100_000
    nfes: tuple[int, ...] = ()
    label: str = ""

    @property
    def name(self) -> str:
        """Words that tell it from the others."""
        parts = [self.preset, *self.settings, f"batch {self.batch}", f"{self.rounds} rounds", f"step {self.iteration}"]
        return ", ".join(parts) if not self.label else self.label


@dataclass(frozen=True)
class Wait:
    """A wait that may be: its place holds the text ``place``; at most ``times`` in a work called like ``during``."""

    place: str
    during: str
    times: int
    reason: str


PRESETS = (
    "digits", "imagenet-fm", "imagenet-repa", "imagenet-repa-2nfe", "flux-dev", "flux-dev-8nfe", "flux-dev-dx",
    "flux-dev-momentum", "flux2-dev", "flux2-klein", "qwen-image", "qwen-image-dx", "qwen-image-momentum", "z-image",
)  # fmt: skip

CASES = (
    *(Case(preset, nfes=(1, 4, 8)) for preset in PRESETS),
    # A guided teacher, and two halves of a batch; the teacher still leads, the average has not begun, nothing is cut.
    Case("qwen-image", batch=2, rounds=2, iteration=0),
    Case("digits", batch=3, rounds=2, iteration=0),
    Case("digits", ("imitation.mixing_iterations=1000",), batch=3, iteration=500),
    Case("flux-dev", ("adapter.base_precision=fp8",), batch=2),
    Case("flux-dev", ("optimisation.precision=fp32",)),
    Case("flux-dev", ("policy.kind=dx-poly",), nfes=(1,)),
    Case("imagenet-repa", ("optimisation.gradient_checkpointing=true",), batch=2, rounds=3),
)

ALLOWED = (
    Wait("finite = bool(", "step", 1, "whether gradients are finite, once a step: 8-bit optimisers know no skipping"),
    Wait(
        "isfinite().all())",
        "sampling",
        1,
        "whether samples are finite, at the end, before they are shown",
    ),
    Wait("transformer_qwenimage.py", "step", 2, "rotary tables go to the device at the first call of a process"),
    Wait("transformer_z_image.py", "step", 3, "rotary tables go to the device at the first call of a process"),
)
# Copies that do not wait: all that a round needs in one, a sampling's times, and what three segments of windows draw.
COPIES = {"step": 1, "sampling": 1, "packed": 1, "windows": 3}

# Launches, at most, from what a network gives to the next state, and of a window of training with its backward. A
# policy in closed form has no kernels of its own.
MOST_LAUNCHES = {
    "gm": {"rollout": 2, "packed rollout": 4, "window": 7},
    "dx": {"rollout": 2, "packed rollout": 4, "window": 4},
    "dx-poly": {"rollout": 2, "packed rollout": 4, "window": 4},
    "momentum": {"rollout": 70, "window": 195},
}
