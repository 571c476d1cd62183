"""Presets: their schema, their parsing, and their resolution with the command line."""
