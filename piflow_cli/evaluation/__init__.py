"""Evaluation: numbers for the quality of a student."""
