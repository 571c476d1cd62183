"""Files that are fetched once, into the user's cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RunError, is_of_the_system
from ...errors.network import NETWORK, network_reason
from ...system.files import files_digest, replacing_file

if TYPE_CHECKING:
    from ...console import Console


def download(url: str, path: Path, console: Console | None, digest: str | None = None) -> Path:
    """``path``, after ``url`` has been fetched there; written aside and renamed.

    Args:
        digest: SHA-256 that the file must have.

    Raises:
        RunError: it cannot be fetched, or is another file; the hint says where to put it by hand.
    """
    from torch.hub import download_url_to_file

    if console is not None:
        console.say(f"downloading {path.name} to {path.parent}")
    try:
        with replacing_file(path) as aside:
            download_url_to_file(url, str(aside), progress=False)
            if digest is not None and files_digest([aside]) != digest:
                raise RunError(
                    f"what was downloaded as {path.name} is another file than the published one", f"put it at {path}"
                )
    except (OSError, *NETWORK) as error:
        if not isinstance(error, NETWORK) and is_of_the_system(error):
            # Of the disk.
            raise
        raise RunError(
            f"{path.name} is not on this machine and cannot be downloaded: {network_reason(error)}",
            f"put it at {path}",
        ) from error
    return path
