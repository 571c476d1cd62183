"""Policies: network output in, velocities out."""

from .base import Policy
from .components import ComponentPolicy
from .dx import DXPolicy
from .gmflow import GMFlowPolicy
from .momentum import MomentumPolicy

__all__ = ["ComponentPolicy", "DXPolicy", "GMFlowPolicy", "MomentumPolicy", "Policy"]
