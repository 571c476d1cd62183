"""Policies: network output in, velocities out."""

from .base import Policy
from .dx import DXPolicy
from .gmflow import GMFlowPolicy

__all__ = ["DXPolicy", "GMFlowPolicy", "Policy"]
