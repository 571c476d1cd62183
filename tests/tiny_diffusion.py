"""Tiny random teachers that are told a class and are no flow models, one of each family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file
from tiny_edm2 import released, tiny_edm2
from tiny_presets import SMALL_POLICY, SUMMARY, optimisation
from tiny_students import facts, tiny_dit
from torch import nn

from piflow_cli.students.facts import StudentFacts

FAMILIES = ("dit-epsilon", "dit-v", "dit-edm", "dit-ddpm", "edm2")
CLASSES = 3


def released_dit() -> DiTTransformer2DModel:
    """As the released one, with a variance beside the noise."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=2, out_channels=4, num_layers=2, sample_size=4,
        num_embeds_ada_norm=CLASSES, norm_num_groups=2,
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def teacher(family: str) -> nn.Module:
    if family == "edm2":
        return tiny_edm2()
    return released_dit() if family == "dit-ddpm" else tiny_dit()


def diffusion_facts(family: str, policy: str = "gm") -> StudentFacts:
    return replace(facts(policy), family=family)


def tiny_preset(family: str, folder: Path) -> Path:
    """A preset of the teacher, saved in ``folder`` as it is released; four iterations, two evaluations."""
    model, base = teacher(family), folder / "base"
    model.save_pretrained(base)
    if family == "edm2":
        (base / "diffusion_pytorch_model.safetensors").unlink()
        base /= "edm2.safetensors"
        save_file(released(), base)
    if family == "dit-ddpm":
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"_class_name": "Transformer2DModel"}))
        (base / "diffusion_pytorch_model.safetensors").unlink()
        base /= "diffusion_pytorch_model.bin"
        torch.save(model.state_dict(), base)
    preset = {
        "name": "tiny",
        "summary": SUMMARY,
        "teacher": {"family": family, "base": str(base), "license": "none", "memory": "none", "guidance": 2.0},
        "policy": dict(SMALL_POLICY),
        "data": {"labels": "uniform"},
        "imitation": {"states": 2, "window": 1, "dropout": 0.1, "mixing_iterations": 2, "loss_scale": 1.0},
        "optimisation": optimisation(iterations=4, batch_size=4, warmup=1),
        "output": {"preview_every": 0, "checkpoint_every": 2, "keep_checkpoints": 2},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path
