"""What presets of tiny teachers have in common."""

from __future__ import annotations

from pathlib import Path

SUMMARY = "a random teacher for tests"


# Of two segments, the last of them half as long.
SMALL_POLICY = {
    "kind": "gm",
    "components": 3,
    "nfe": 2,
    "shift": 3.2,
    "final_step_scale": 0.5,
    "substeps": 16,
    "logstd_width": 8,
}


def optimisation(iterations: int, batch_size: int, warmup: int) -> dict:
    """A section ``optimisation`` for a handful of iterations."""
    return {
        "iterations": iterations,
        "batch_size": batch_size,
        "learning_rate": 1e-3,
        "betas": [0.9, 0.95],
        "weight_decay": 0.0,
        "warmup": warmup,
        "gradient_clip": 50.0,
        "precision": "fp32",
    }


def texts(folder: Path, *prompts: str) -> list[str]:
    """Options of a run on these prompts, which are kept in ``folder``, at 32 by 32 pixels."""
    file = folder / "prompts.txt"
    file.write_text("".join(f"{prompt}\n" for prompt in prompts))
    return ["--prompts", str(file), "--cache", str(folder / "cache"), "--set", "data.sizes=[[32, 32]]"]
