"""What pyproject.toml says."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    # pytest brings it there.
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
SAID = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, TOOLS = SAID["project"], SAID["tool"]
