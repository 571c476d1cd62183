"""Policies: network output in, velocities out; a file for each, and the table of them in :mod:`.kinds`."""
