"""The options of `piflow distill` that give a key of the preset: one row each."""

from __future__ import annotations

# Pictures have labels or captions as the teacher is told a class or a text: one option for both keys.
PICTURES = "data"
FLAGS = {
    "teacher.base": "--base",
    "teacher.loras": "--teacher-lora",
    "policy.kind": "--policy",
    "policy.nfe": "--nfe",
    "policy.components": "--components",
    "data.prompts": "--prompts",
    PICTURES: "--data",
    "data.text_column": "--text-column",
    "data.limit": "--limit",
    "data.cache": "--cache",
    "data.offload_text_encoder": "--offload-text-encoder",
    "imitation.data_free": "--data-free",
    "adapter.base_precision": "--base-precision",
    "adapter.offload_base": "--offload-base",
    "optimisation.iterations": "--iterations",
    "optimisation.budget": "--budget",
    "optimisation.batch_size": "--batch-size",
    "optimisation.learning_rate": "--learning-rate",
    "output.tracker": "--tracker",
    "seed": "--seed",
    "recipe": "--recipe",
}

OPTIONS = {option.removeprefix("--").replace("-", "_"): key for key, option in FLAGS.items()}
"""Names of the options, as Python writes them, with their keys."""


def flag_of(key: str) -> str:
    """The option that gives ``key``."""
    return FLAGS[PICTURES if key in ("data.images", "data.captioned") else key]


def as_typed(option: str, value: object) -> str:
    """``option`` with its ``value``; of a switch the one of the two that means the value, of a list once for each."""
    if isinstance(value, (list, tuple)):
        return " ".join(as_typed(option, one) for one in value)
    if isinstance(value, bool):
        return option if value else option.replace("--", "--no-", 1)
    # A whole number is typed without a point.
    return f"{option} {str(value).removesuffix('.0')}"


def source_of(key: str, value: object) -> str:
    """The option that gave ``value`` to ``key``, or the assignment, for a key without an option."""
    return as_typed(FLAGS[key], value) if key in FLAGS else f"--set {key}={value}"


def is_flag(source: str) -> bool:
    """Whether a value comes from an option of its own, and not from --set or a file."""
    return source.startswith("--") and not source.startswith("--set ")
