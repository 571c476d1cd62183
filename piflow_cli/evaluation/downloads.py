"""Files that are fetched once, into the user's cache."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunError

if TYPE_CHECKING:
    from ..console import Console


def download(url: str, path: Path, console: Console | None) -> Path:
    """``path``, after ``url`` has been fetched there; written aside and renamed.

    Raises:
        RunError: it cannot be fetched; the hint says where to put the file by hand.
    """
    from torch.hub import download_url_to_file

    if console is not None:
        console.say(f"downloading {path.name} to {path.parent}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # It writes aside and renames by itself.
        download_url_to_file(url, str(path), progress=False)
    except (OSError, HTTPException) as error:
        # urllib's own errors are OSErrors; a connection that breaks off may raise one of http.client.
        raise RunError(f"{path.name} is not on this machine and cannot be downloaded: {error}", f"put it at {path}") from error
    return path
