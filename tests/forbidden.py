"""A folder that may not be looked into, whoever runs the tests: root may look into all of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Make ``folder``, which the system then neither lists nor says of what is in it; returns it."""
    folder.mkdir(parents=True)

    def refusing(real: Any, inside: int) -> Any:
        def call(place: Any = ".", *args: Any, **kwargs: Any) -> Any:
            lineage = [] if isinstance(place, int) else [Path(os.fsdecode(place)), *Path(os.fsdecode(place)).parents]
            if folder in lineage[inside:]:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
            return real(place, *args, **kwargs)

        return call

    for name, inside in (("stat", 1), ("lstat", 1), ("listdir", 0), ("scandir", 0)):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), inside))
    return folder
