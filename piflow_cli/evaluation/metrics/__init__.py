"""Metrics: one file each, and a row of :mod:`piflow_cli.evaluation.metric_kinds`."""
