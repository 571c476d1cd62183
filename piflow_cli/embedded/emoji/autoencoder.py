"""Stage `autoencoder`: four pixels a latent position each way, and latents that a small network can model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ...system.files import replacing_file
from ...teachers.base import Network
from ...teachers.packing import pack
from .data import load_pictures, to_unit
from .loop import Limits, Run, average_of
from .network import new_autoencoder
from .recipe import AutoencoderRecipe

CHECKPOINT, LATENTS = "autoencoder.pt", "latents.safetensors"
AT_ONCE = 256


def autoencoder_loss(model: Network, pictures: Tensor, recipe: AutoencoderRecipe, generator: torch.Generator) -> Tensor:
    """Squared and absolute error of ``pictures`` (B, 3, H, W) and the divergence from a unit normal (1312.6114)."""
    posterior = model.encode(pictures).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    decoded = model.decode(mean + (0.5 * logvar).exp() * noise).sample.float()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    error = F.mse_loss(decoded, pictures) + recipe.absolute * F.l1_loss(decoded, pictures)
    return error + recipe.kl * divergence


def train_autoencoder(work: Path, recipe: AutoencoderRecipe, limits: Limits, device: torch.device) -> dict[str, Any]:
    """Train on the pictures in ``work``, encode them all, and return the figures."""
    pictures = load_pictures(work / "data").to(device)
    torch.manual_seed(recipe.seed)
    model = new_autoencoder(recipe).to(device)
    run = Run("autoencoder", model, recipe, work / CHECKPOINT, limits)

    def loss_of(model: Any, iteration: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pictures), (recipe.batch_size,), generator=generator, device=device)
        batch = to_unit(pictures[chosen])
        # Pictures of strangers come in other orientations than emoji.
        flipped = torch.rand(recipe.batch_size, 1, 1, 1, generator=generator, device=device) < 0.5
        return autoencoder_loss(model, torch.where(flipped, batch.flip(-1), batch), recipe, generator)

    run.train(loss_of)
    model.load_state_dict(average_of(work / CHECKPOINT))
    figures = encode_all(model.eval(), pictures, work / LATENTS)
    return {**run.facts(), **figures}


@torch.no_grad()
def encode_all(model: Network, pictures: Tensor, place: Path) -> dict[str, float]:
    """Write the packed latents of all pictures, normalised to mean 0 and standard deviation 1; return the figures."""
    batches = pictures.split(AT_ONCE)
    posteriors = [model.encode(to_unit(batch)).latent_dist for batch in batches]
    mean = torch.cat([posterior.mean for posterior in posteriors])
    std = torch.cat([posterior.std for posterior in posteriors])
    errors = [
        (model.decode(posterior.mean).sample.clamp(-1, 1) - to_unit(batch)).square().mean((1, 2, 3))
        for posterior, batch in zip(posteriors, batches)
    ]
    decibels = 10 * (4 / torch.cat(errors)).log10()
    shift = mean.mean().item()
    # Of samples, which is what flows learn: the variance of the means and that around them.
    scale = (mean.var() + std.square().mean()).rsqrt().item()
    tensors = {"mean": pack((mean - shift) * scale).contiguous(), "std": pack(std * scale).contiguous()}
    with replacing_file(place) as aside:
        save_file(tensors, aside, {"shift_factor": repr(shift), "scaling_factor": repr(scale)})
    return {
        "psnr_mean": decibels.mean().item(),
        "psnr_lowest": decibels.min().item(),
        "psnr_of_all": (10 * (4 / torch.cat(errors).mean()).log10()).item(),
        "shift_factor": shift,
        "scaling_factor": scale,
        "posterior_std": (std * scale).mean().item(),
    }


def load_latents(work: Path) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (N, tokens, 4 C) of the pictures' packed latents, float32."""
    tensors = load_file(work / LATENTS)
    return tensors["mean"], tensors["std"]


def load_autoencoder(work: Path, recipe: AutoencoderRecipe, figures: dict[str, Any]) -> Network:
    """The trained autoencoder, with the factors that normalise its latents in its config."""
    model = new_autoencoder(recipe)
    model.load_state_dict(average_of(work / CHECKPOINT))
    model.register_to_config(shift_factor=figures["shift_factor"], scaling_factor=figures["scaling_factor"])
    return model.eval()
