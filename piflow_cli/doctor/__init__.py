"""What works on this machine, in a minute: `piflow doctor`."""

from .checks import CHECKS
from .examine import Examined, examine

__all__ = ["CHECKS", "Examined", "examine"]
