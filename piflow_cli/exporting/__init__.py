"""Exports: one file for each format, and a driver that writes, reads back, compares and publishes."""
