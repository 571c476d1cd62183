"""pi-Flow: distil flow models into policies that sample in one to a few network evaluations."""

__version__ = "0.2.0"
