"""Train a teacher of moving digits: a small Wan whose latents are pixels, told a digit and a direction.

    python -m piflow_cli.embedded.moving_teacher --output DIR

DIR becomes the folder of a stock WanPipeline, and of its captions, prompts.txt. Its VAE shows each latent position as a
square of eight pixels, in four frames but for the first: four frames of 16 x 16 are 13 of 128 x 128. Run again, a
program that was stopped goes on. Loss: |u(x_sigma, sigma, caption) - (eps - x_0)|^2 with x_sigma = (1 - sigma) x_0 +
sigma eps and uniform sigma (Lipman et al., arXiv 2210.02747). The text encoder has random weights: it tells words
apart, and the network learns what they mean.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..system.files import replacing_file
from ..teachers.base import Network
from ..teachers.wan import WanFamily
from .digits_teacher import load_digits
from .emoji.loop import Limits, Run, read_checkpoint
from .emoji.recipe import Schedule
from .moving_digits import STEP, captions, draw, pictures_of
from .moving_vae import new_vae

PROGRAM = "python -m piflow_cli.embedded.moving_teacher"
PROMPTS, CHECKPOINT, FACTS = "prompts.txt", "training.pt", "training.json"
SPECIAL = ("<pad>", "</s>", "<unk>")
# A word is that much larger than the biases of the layers that read it.
LOUDNESS = 4.0


@dataclass(frozen=True)
class MovingRecipe(Schedule):
    """The transformer, of ``heads`` heads of ``head_width``, and the width of the text's tokens."""

    iterations: int = 7_000
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: int = 100
    ema: float = 0.995
    layers: int = 3
    heads: int = 2
    head_width: int = 64
    text_width: int = 32


def new_network(recipe: MovingRecipe) -> Network:
    """A transformer whose velocity is zero at first, and which hardly reads the padding of texts then."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(recipe.seed)
    width = recipe.heads * recipe.head_width
    network: Network = WanTransformer3DModel(
        patch_size=(1, STEP, STEP),
        num_attention_heads=recipe.heads,
        attention_head_dim=recipe.head_width,
        in_channels=1,
        out_channels=1,
        text_dim=recipe.text_width,
        ffn_dim=4 * width,
        num_layers=recipe.layers,
        rope_max_seq_len=32,
    )
    nn.init.zeros_(network.proj_out.weight)
    nn.init.zeros_(network.proj_out.bias)
    _turn_from_padding(network)
    return network


@torch.no_grad()
def _turn_from_padding(network: Network) -> None:
    """Point the queries away from the key of a token of zeros, of which 507 stand beside five that say something.

    Read alike, the five would be a hundredth of all that is read, and nothing be learned of them.
    """
    reading = network.condition_embedder.text_embedder
    for layer in (reading.linear_1, reading.linear_2):
        nn.init.zeros_(layer.bias)
    for block in network.blocks:
        nn.init.constant_(block.attn2.to_k.bias, 0.3)
        nn.init.constant_(block.attn2.to_q.bias, -2.0)


def new_text(recipe: MovingRecipe) -> dict[str, Any]:
    """Tokenizer and text encoder of the stock pipeline: whole words, and a UMT5 of random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = sorted({word for text in captions() for word in text.split()})
    pad, end, unknown = SPECIAL
    whole = Tokenizer(models.WordLevel({word: place for place, word in enumerate((*SPECIAL, *words))}, unknown))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    torch.manual_seed(recipe.seed)
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(SPECIAL) + len(words),
            d_model=recipe.text_width,
            d_kv=recipe.text_width // 2,
            d_ff=recipe.text_width,
            num_layers=1,
            num_heads=2,
            dropout_rate=0.0,
        )
    )
    nn.init.constant_(encoder.encoder.final_layer_norm.weight, LOUDNESS)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, pad_token=pad, eos_token=end, unk_token=unknown)
    return {"tokenizer": tokenizer, "text_encoder": encoder.eval()}


def write_base(folder: Path, recipe: MovingRecipe) -> None:
    """Write the stock pipeline with a network that has learned nothing, and the captions; in ``folder``."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    kind: Any = WanPipeline
    parts = {**new_text(recipe), "scheduler": FlowMatchEulerDiscreteScheduler(), "vae": new_vae()}
    kind(**parts, transformer=new_network(recipe)).save_pretrained(folder)
    (folder / PROMPTS).write_text("".join(f"{text}\n" for text in captions()), encoding="utf-8")


@torch.no_grad()
def encoded(folder: Path) -> Tensor:
    """What the network is told of each caption, (N, L, D) float32, as a distillation from ``folder`` encodes them."""
    family = WanFamily()
    told = family.encode_prompts(family.text_pipeline(folder), captions())
    return torch.stack([one["prompt_embeds"] for one in told]).float()


def without_padding(told: Tensor) -> tuple[Tensor, int]:
    """Texts (N, n + 1, D) of texts (N, L, D) whose last L - n tokens are zeros, and that number: one is left of them.

    Raises ValueError where some texts are longer than others.
    """
    lengths = told.any(dim=-1).sum(dim=1)
    length = int(lengths[0])
    if not bool((lengths == length).all()):
        raise ValueError("the captions are of several lengths")
    return told[:, : length + 1], told.shape[1] - length


def count_last_token(network: Network, times: int) -> None:
    """Let ``network`` read the last token of every text as if it stood there ``times`` times.

    Equal keys share their weight, and so log(times) on the logit of one does what that many do. Wan has no mask of
    texts: it reads 512 tokens, most of them zeros, which would cost more here than the video.
    """

    def masked(module: nn.Module, args: tuple) -> tuple:
        video, text, _, rotary = args
        mask = torch.zeros(1, 1, 1, text.shape[1], dtype=video.dtype, device=video.device)
        mask[..., -1] = math.log(times)
        return video, text, mask, rotary

    for block in network.blocks:
        block.attn2.register_forward_pre_hook(masked)


def flow_matching_loss(
    network: nn.Module, videos: Tensor, told: Tensor, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Of ``videos`` (B, 1, F, H, W) and what is told of them (B, L, D); noise levels are drawn in even strata."""
    batch = len(videos)
    sigma = (torch.arange(batch, device=device) + torch.rand(batch, generator=generator, device=device)) / batch
    noise = torch.randn(videos.shape, generator=generator, device=device)
    x = torch.lerp(videos, noise, sigma[:, None, None, None, None])
    # The loop trains in bfloat16, which many a CPU computes more slowly than float32.
    with torch.autocast(device.type, enabled=False):
        velocity = WanFamily().call(network, x, sigma, {"prompt_embeds": told})
    return F.mse_loss(velocity, noise - videos)


def train(folder: Path, recipe: MovingRecipe, limits: Limits, device: torch.device) -> dict[str, Any]:
    """Train the network in ``folder``, write its averaged weights there, and return what is said of the training."""
    told, padding = without_padding(encoded(folder))
    network = new_network(recipe).to(device)
    count_last_token(network, padding)
    run = Run("moving digits", network, recipe, folder / CHECKPOINT, limits, rate="--learning-rate")
    told = told.to(device)
    images, labels = (values.to(device) for values in pictures_of(*load_digits()))

    def loss_of(network: nn.Module, iteration: int, generator: torch.Generator) -> Tensor:
        videos, places = draw(images, labels, recipe.batch_size, generator)
        return flow_matching_loss(network, videos, told[places], generator, run.device)

    run.train(loss_of)
    trained = new_network(recipe)
    trained.load_state_dict(read_checkpoint(folder / CHECKPOINT)["ema"])
    trained.save_pretrained(folder / "transformer")
    return {"program": PROGRAM, "recipe": asdict(recipe), **run.facts()}


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Train the teacher of moving digits.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--device", type=torch.device, default="cpu", help="where it is trained, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; another number rounds differently")
    parser.add_argument("--seconds", type=float, help="end the training after this time")
    parser.add_argument("--log-every", type=int, default=100, help="iterations from one line to the next")
    for field in fields(MovingRecipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    arguments = parser.parse_args(given)
    torch.set_num_threads(arguments.threads)
    recipe = MovingRecipe(**{field.name: getattr(arguments, field.name) for field in fields(MovingRecipe)})
    folder: Path = arguments.output
    if not (folder / PROMPTS).is_file():
        write_base(folder, recipe)
    facts = train(folder, recipe, Limits(arguments.seconds, arguments.log_every), arguments.device)
    with replacing_file(folder / FACTS) as aside:
        aside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
