"""Training: from a preset to a student."""

from .dry_run.plan import describe
from .run import distill

__all__ = ["describe", "distill"]
