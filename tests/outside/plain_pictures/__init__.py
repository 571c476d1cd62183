"""A family of teachers that piflow does not know, and a preset for it. They live here, as another package's would.

The row stands apart from the class: it is imported wherever teachers are listed, and needs no torch.
"""

from pathlib import Path

from piflow_cli.presets.families import CLASS, FamilyKind

ROW = FamilyKind("plain", "plain_pictures.family:PlainFamily", CLASS, Path(__file__).parent / "presets")
