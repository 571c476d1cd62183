"""The options of `piflow distill` that are short for a key of the preset."""

from __future__ import annotations

PICTURES = "data"
"""The key of pictures in any form, which a preset sorts into labelled and captioned ones."""
SHORTCUTS = {
    "base": "teacher.base",
    "policy": "policy.kind",
    "nfe": "policy.nfe",
    "components": "policy.components",
    "prompts": "data.prompts",
    "data": PICTURES,
    "text_column": "data.text_column",
    "cache": "data.cache",
    "offload_text_encoder": "data.offload_text_encoder",
    "data_free": "imitation.data_free",
    "base_precision": "adapter.base_precision",
    "offload_base": "adapter.offload_base",
    "iterations": "optimisation.iterations",
    "batch_size": "optimisation.batch_size",
    "learning_rate": "optimisation.learning_rate",
    "seed": "seed",
}
"""Name of the option → key."""
