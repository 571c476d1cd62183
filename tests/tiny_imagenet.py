"""The shipped preset imagenet-repa-2nfe, cut down to a random SiT checkpoint of five classes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from sit import HEADS, sit_weights

from piflow_cli.presets.resolve import presets_root


def tiny_imagenet(folder: Path, vae: Path, **sections: dict) -> Path:
    """A preset in ``folder``, four iterations long; ``sections`` say what else is other than published."""
    torch.save(sit_weights(), folder / "sit.pt")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}))
    data = yaml.safe_load((presets_root() / "imagenet-repa-2nfe.yaml").read_text())
    data["teacher"] |= {"base": str(folder / "sit.pt"), "config": None, "vae": str(vae)}
    data["policy"] |= {"components": 3, "substeps": 16, "logstd_width": 8}
    data["optimisation"] |= {
        "iterations": 4,
        "batch_size": 8,
        "device_batch_size": None,
        "warmup": 2,
        "precision": "fp32",
        "optimizer": "adamw",
    }
    data["output"] = {"checkpoint_every": 2}
    data["variants"] = {"dx": {"policy": {"components": 4}, "imitation": {"window": 2, "dropout": 0.0}}}
    for name, changes in sections.items():
        data[name] = data.get(name, {}) | changes
    path = folder / "imagenet.yaml"
    path.write_text(yaml.safe_dump(data))
    return path
