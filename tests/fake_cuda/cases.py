"""What is run on the GPU that is not there, and the waits for the device that it may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A training step and samplings of a preset.

    ``batch`` trajectories in each of ``rounds``; ``iteration``: of the step, where mixing, warm-up and the average
    differ; ``nfes``: evaluations of the samplings; ``offload``: how the network waits for a picture by its pipeline.
    """

    preset: str
    settings: tuple[str, ...] = ()
    batch: int = 1
    rounds: int = 1
    iteration: int = 100_000
    nfes: tuple[int, ...] = ()
    offload: str = ""
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


# bitsandbytes' kernels know no fake tensors: presets on its bases are those of others but for batch, rank and base.
UNTRACED = ("flux-dev-24gb", "qwen-image-24gb")
EXTRACTORS = "extractors"  # of `piflow eval`, in the place of a preset
# Seconds that all cases of a preset take in full size on a core of its own. Those under WHOLE are taken so.
PRESETS = {
    "digits": 4, "imagenet-fm": 9, "imagenet-repa": 14, "imagenet-repa-2nfe": 6, "flux-dev": 120, "flux-dev-8nfe": 52,
    "flux-dev-dx": 22, "flux-dev-momentum": 19, "flux2-dev": 24, "flux2-klein": 16, "flux2-dev-edit": 30,
    "flux2-klein-edit": 20, "qwen-image": 135,
    "qwen-image-dx": 35, "qwen-image-momentum": 35, "qwen-image-2512": 135, "qwen-image-edit-2511": 180, "krea2": 60,
    "chroma": 70, "ernie-image": 60, "flux-kontext": 150, "flux3-klein": 60,
    "longcat-image": 30, "ovis-image": 30, "z-image": 20, "z-image-turbo": 15,
    "sd15": 25, "sdxl": 60, "sd35": 60, "sana": 30, "imagenet-dit": 9, "imagenet64": 20, "wan21-1.3b": 60,
    "wan22-5b": 120, "wan22-a14b": 150, "ltx-video": 150, "kandinsky6": 150,
    "emoji": 10, "emoji-1nfe": 10, "emoji-dx": 10, "emoji-momentum": 10,
}  # fmt: skip
WHOLE = 60
# One of each family that samples by a stock pipeline, but Chroma, LongCat-Image and Ovis-Image, whose pipelines make
# positions in host memory and wait for them, and ERNIE-Image, whose pipeline reads its times there.
PIPELINES = ("flux-dev", "flux2-dev", "flux2-klein", "qwen-image", "krea2", "sd15", "z-image")

CASES = (
    *(Case(preset, nfes=(1, 4, 8)) for preset in PRESETS),
    # A guided teacher, and two halves of a batch; the teacher still leads, the average has not begun, nothing is cut.
    Case("qwen-image", batch=2, rounds=2, iteration=0),
    Case("digits", batch=3, rounds=2, iteration=0),
    Case("digits", ("imitation.mixing_iterations=1000",), batch=3, iteration=500),
    Case("flux-dev", ("adapter.base_precision=fp8",), batch=2, offload="group"),
    Case("flux-dev", ("optimisation.precision=fp32", "adapter.offload_base=true")),
    Case("flux-dev", ("policy.kind=dx-poly",), nfes=(1,)),
    Case("imagenet-repa", ("optimisation.gradient_checkpointing=true",), batch=2, rounds=3),
    Case(EXTRACTORS),
)

WHICH = "which of two networks a call is for, each of which computes for seconds"
ALLOWED = (
    Wait("self.edge).tolist()", "step", 20, WHICH),
    Wait("self.edge).tolist()", "sampling", 8, WHICH),
    Wait("finite = bool(", "step", 1, "whether gradients are finite, once a step: 8-bit optimisers know no skipping"),
    Wait(
        "isfinite().all())",
        "sampling",
        1,
        "whether samples are finite, at the end, before they are shown",
    ),
    Wait("isfinite().all())", "pipeline", 1, "whether a picture is finite, at its end"),
    Wait("pipeline_flux.py", "pipeline", 2, "this pipeline makes positions on the host, once a picture"),
    Wait("pipeline_flux2", "pipeline", 2, "this pipeline makes positions on the host, once a picture"),
    Wait("isfinite().all())", "features", 1, "whether pictures are finite, or they would pass for black"),
    Wait("images.split(size)]).cpu()", "features", 1, "features are wanted on the host: one fetch for all batches"),
    Wait("pixels.py", "features", 1, "features are wanted on the host"),
    Wait("torch.cat(parts).cpu()", "features", 1, "scores are wanted on the host: one fetch for all batches"),
    Wait("network(one, other)", "features", 1, "distances are wanted on the host: one fetch for all batches"),
    Wait("levels = quantised(images).cpu()", "features of samples", 1, "CLIP's own processor resizes on the host"),
    # FLUX.1 in full size has 1,474 tensors with its adapters.
    Wait("group_offloading.py", "pipeline", 1500, "the first evaluation learns the order of layers"),
    Wait("transformer_chroma.py", "step", 12, "each call of the network copies a zero that it makes on the host"),
    Wait("transformer_chroma.py", "sampling", 1, "each call of the network copies a zero that it makes on the host"),
    Wait("transformer_qwenimage.py", "step", 2, "rotary tables go to the device at the first call of a process"),
    Wait("transformer_z_image.py", "step", 3, "rotary tables go to the device at the first call of a process"),
)
# Copies that do not wait: all that a round needs in one; a sampling's times; these, and what a picture needs; of
# pictures, what a network takes at once; what a segment draws; and the noise of two stochastic steps.
COPIES = {"step": 1, "sampling": 1, "pipeline": 2, "features": 2, "packed": 1, "windows": 1, "stochastic": 4}
# Those of weights that are offloaded do not count.
FETCHES = ("visiting.py", "group_offloading.py")

# More for a rollout whose network predicts something else than velocities: it in another precision, two factors, the
# state, and all of them together.
CONVERTED = 6
# Launches, at most, from what a network gives to the next state, to which a stochastic step adds noise, and of the
# windows of a segment with their backward; the tensors of several samples are copied for each window first.
KINDS = {"gm": (2, 7, 5), "dx": (2, 4, 3), "dx-poly": (2, 4, 3), "momentum": (1, 5, 5)}
MOST_LAUNCHES = {
    kind: {
        "rollout": rollout,
        "packed rollout": rollout + 2,
        "stochastic rollout": rollout + 1,
        "packed stochastic rollout": rollout + 2,
        "windows": windows,
        "windows of several samples": windows + tensors,
    }
    for kind, (rollout, windows, tensors) in KINDS.items()
}
