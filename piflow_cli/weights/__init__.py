"""Weights: finding files, reading them safely, quantisation."""
