"""Weights: where files lie, reading them safely, quantisation."""
