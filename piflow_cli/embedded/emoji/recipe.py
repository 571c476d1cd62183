"""Every setting that shapes the weights, without the data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Schedule:
    """One training run. `iterations` also sets the learning-rate schedule, unless the time runs out before."""

    iterations: int = 1_000
    batch_size: int = 128
    learning_rate: float = 1e-3  # at its peak, after the warm-up
    warmup: int = 100
    ema: float = 0.999
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class AutoencoderRecipe(Schedule):
    """Loss: squared error + `absolute` absolute error + `kl` divergence a latent value."""

    iterations: int = 3_318
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    ema: float = 0.99
    absolute: float = 0.1
    kl: float = 3e-4
    channels: tuple[int, ...] = (32, 64, 96)  # one for each halving, and one before
    latent_channels: int = 8
    norm_groups: int = 8


@dataclass(frozen=True)
class TextRecipe(Schedule):
    """Text encoders of the teacher's sizes, and readouts of their own that are thrown away."""

    iterations: int = 2_203
    batch_size: int = 256
    learning_rate: float = 2e-3
    ema: float = 0.99
    readout_width: int = 128
    readout_heads: int = 4


@dataclass(frozen=True)
class FlowRecipe(Schedule):
    """Times: sigma = shift s / (1 + (shift - 1) s) of logit-normal s, and uniform ones for the share `uniform_times`.

    FLUX does not mask the padding of its text. Most iterations pad captions to `text_length`; one in `long_every` pads
    to `long_length`, which is the stock pipeline's default, on a batch of `long_batch_size`. With `muon`, the matrices
    of the transformer's blocks take orthogonalised steps (Jordan et al. 2024, scaled as in arXiv 2502.16982), and AdamW
    trains all the rest.
    """

    batch_size: int = 512
    shift: float = 1.5
    uniform_times: float = 0.2
    caption_dropout: float = 0.1
    text_length: int = 32
    long_length: int = 512
    long_every: int = 16
    long_batch_size: int = 64
    muon: bool = True


@dataclass(frozen=True)
class TransformerRecipe(FlowRecipe):
    """The transformer, of `width` in heads of `head_width`, and the text encoders, trained jointly."""

    iterations: int = 1_923
    learning_rate: float = 3e-3
    warmup: int = 300
    weight_decay: float = 0.01
    width: int = 192
    head_width: int = 32
    double_blocks: int = 2
    single_blocks: int = 5
    text_width: int = 128  # of CLIP's pooled vector and of T5's tokens
    text_layers: int = 2
    text_heads: int = 4


@dataclass(frozen=True)
class GuidanceRecipe(FlowRecipe):
    """The student of guidance: v_uncond + w (v_cond - v_uncond) for w uniform between two scales."""

    iterations: int = 1_015
    learning_rate: float = 1.5e-3
    warmup: int = 50
    ema: float = 0.998
    lowest: float = 1.0
    highest: float = 6.0


@dataclass(frozen=True)
class Recipe:
    """All stages. The defaults are those of the run that made the weights.

    Time ended its stages: 20 and 15 minutes of a CPU core for autoencoder and text, 200 and 90 seconds of an H100 for
    teacher and guidance.
    """

    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    text: TextRecipe = field(default_factory=TextRecipe)
    teacher: TransformerRecipe = field(default_factory=TransformerRecipe)
    guidance: GuidanceRecipe = field(default_factory=GuidanceRecipe)
