"""Errors that a user can cause, and a message with the next command for those that libraries raise."""

from .base import Interrupted, PiflowError, Preempted, Reported, RunError, UsageError
from .hub import is_unreachable
from .recognition import first_line, is_of_the_system, system_number
from .table import explain

DEBUG_VARIABLE = "PIFLOW_DEBUG"

__all__ = [
    "DEBUG_VARIABLE",
    "Interrupted",
    "PiflowError",
    "Preempted",
    "Reported",
    "RunError",
    "UsageError",
    "explain",
    "first_line",
    "is_of_the_system",
    "is_unreachable",
    "system_number",
]
