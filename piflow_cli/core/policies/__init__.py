"""Policies: network output in, velocities out. Each has a file, and a row of the table in :mod:`.kinds`."""
