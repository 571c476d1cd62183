"""Presets: their schema, parsing, and resolving one with what the command line adds."""
