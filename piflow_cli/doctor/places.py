"""Folders that are written to, and what is known of the Hub without asking it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import UsageError
from ..system.files import NAME_CACHE, cache_folder, check_writable
from .findings import Finding, broken, missing, works

LARGE = 70e9  # bytes: the largest base, FLUX.2's, in bfloat16


def cache() -> Finding:
    """The folder of encoded prompts and generated states."""
    try:
        return _folder(cache_folder(None, NAME_CACHE))
    except UsageError as error:
        return broken(error.message, error.hint)


def hub_cache() -> Finding:
    """The folder that downloads from the Hub go to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        check_writable(Path(HF_HUB_CACHE), "export HF_HOME=DIR", "the cache of the Hub ")
    except UsageError as error:
        return broken(error.message, error.hint)
    return _folder(Path(HF_HUB_CACHE))


def _folder(folder: Path) -> Finding:
    """A folder that can be written to, and the space of its disk."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    facts = {"folder": str(folder), "free_bytes": free}
    said = f"{folder} can be written to, {free / 1e9:.0f} GB free"
    if free < LARGE:
        said += f"; the largest base takes {LARGE / 1e9:.0f} GB"
    return works(said, facts)


def hub() -> Finding:
    """Whether there is a token for gated models, and whether asking the Hub is forbidden; nothing is sent."""
    from huggingface_hub import constants, get_token

    token, offline = get_token() is not None, constants.HF_HUB_OFFLINE
    facts = {"token": token, "offline": offline, "endpoint": os.environ.get("HF_ENDPOINT")}
    if offline:
        return missing("HF_HUB_OFFLINE is set: only what is in the cache is used", "unset HF_HUB_OFFLINE", facts)
    if not token:
        return missing("there is no token", "hf auth login", facts)
    return works("there is a token, which was not tried", facts)
