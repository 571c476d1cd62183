"""A digits teacher whose guidance was distilled into it, as FLUX.1-dev's was.

A copy of the shipped network learns what classifier-free guidance gives (Meng et al., arXiv 2210.03142) at noised data
of its class. So it is like any other teacher of digits, is asked once, and has never seen a state off those paths.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch
from torch.nn import functional as F

from piflow_cli.core.ema import update_average
from piflow_cli.core.guidance import Guidance
from piflow_cli.core.parameterisations.kinds import FLOW
from piflow_cli.embedded.digits_teacher import TeacherRecipe, learning_rate, load_digits, save_teacher
from piflow_cli.system.files import replacing_folder
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import teacher_velocity
from piflow_cli.weights.locate import locate

RECIPE = TeacherRecipe(iterations=1_000, lr=5e-4, warmup=50, ema=0.99)


def distil_guidance(folder: Path, scale: float, iterations: int, device: torch.device) -> None:
    """Write a teacher into ``folder`` that answers once as the shipped one does twice, guided by ``scale``."""
    recipe = dataclasses.replace(RECIPE, iterations=iterations)
    family = family_of("dit")
    teacher = family.load(locate("preset:digits")).to(device).eval().requires_grad_(False)
    model = copy.deepcopy(teacher).train().requires_grad_(True)
    average = copy.deepcopy(teacher)
    images, labels = load_digits()
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    running = 0.0
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = learning_rate(iteration, recipe)
        chosen = torch.randint(len(images), (recipe.batch_size,), generator=generator)
        sigma = torch.rand(recipe.batch_size, generator=generator)
        noise = torch.randn(images[chosen].shape, generator=generator)
        spread = sigma[:, None, None, None]
        x = ((1 - spread) * images[chosen] + spread * noise).to(device)
        told = {"class_labels": labels[chosen].to(device)}
        with torch.no_grad():
            wanted = teacher_velocity(family, teacher, Guidance(scale), x, sigma.to(device), told)
        loss = F.mse_loss(model(x, sigma.to(device), told["class_labels"]), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_average(average.parameters(), model.parameters(), min(recipe.ema, (iteration + 1) / (iteration + 10)))
        running += (loss.item() - running) / min(iteration + 1, 100)
    print(f"guidance of {scale:g} distilled in {iterations} iterations, loss {running:.5f}", flush=True)
    with replacing_folder(folder) as aside:
        save_teacher(average, aside, recipe, iterations, FLOW)
