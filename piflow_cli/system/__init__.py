"""The machine: devices, processes, files and versions."""
