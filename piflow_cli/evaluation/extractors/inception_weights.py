"""The places of Inception's weights, and the check that they are the published ones.

They are TorchScript, a program that can write files: whoever puts a file into such a place would have it run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...errors import RunError, UsageError
from ...system.files import files_digest, user_cache
from ...weights.cache_kinds import WEIGHTS
from .clean_fid import clean_fid_module
from .downloads import download

if TYPE_CHECKING:
    from ...console import Console

FILE = "inception-2015-12-05.pt"
# SHA-256 of NVIDIA's file, as k-diffusion and others that pin it have it.
DIGEST = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def copy_weights(
    copy: Path, given: Path | None, *, trust: bool, cache: Path | None, console: Console | None
) -> tuple[Path, str]:
    """Write the weights to ``copy``, in a folder of this process alone, and check them; returns their place and digest.

    What is checked is what is loaded: nobody can change the copy in between.

    Args:
        given: the file to take; None is one in the usual places, else one that is downloaded into the last of them.
        trust: take ``given`` whatever it is.
        cache: piflow's folder in place of the one in the user's cache.
        console: told what is left out and what is downloaded.

    Raises:
        UsageError: there is no file at ``given``, or it is another file than the published one and not trusted.
        RunError: the weights are in none of the places and cannot be downloaded; the hint says where to put them.
    """
    if given is not None:
        return given, _copy_given(copy, given, trust)
    for place in weight_places(cache):
        if place.is_file() and _copy_usual(copy, place, console):
            return place, DIGEST
    own = weight_places(cache)[-1]
    try:
        download(clean_fid_module("downloads_helper").inception_url, own, console, DIGEST)
    except RunError as error:
        raise RunError(
            error.message, f"put {FILE} at {own}, or name it: --inception-weights PATH; offline: --extractor pixels"
        ) from error
    shutil.copyfile(own, copy)
    return own, DIGEST


def weight_places(cache: Path | None) -> list[Path]:
    """The places of weights: clean-fid's folder, torch.hub's, and last our own, to which they are downloaded."""
    own = user_cache(cache) / WEIGHTS
    return [folder / FILE for folder in (Path(tempfile.gettempdir()), Path(torch.hub.get_dir()) / "checkpoints", own)]


def _copy_given(copy: Path, given: Path, trust: bool) -> str:
    if not given.is_file():
        what = f"{given} is no file of weights" if given.exists() else f"there are no Inception weights at {given}"
        raise UsageError(what, f"name the file: --inception-weights {FILE}")
    shutil.copyfile(given, copy)
    found = files_digest([copy])
    if found != DIGEST and not trust:
        raise UsageError(
            f"{given} is not the published {FILE} (its SHA-256 begins with {found[:8]}, not {DIGEST[:8]}), and"
            " TorchScript is a program",
            f"name the published file, or run this one too: --inception-weights {shlex.quote(str(given))}"
            " --trust-weights",
        )
    return found


def _copy_usual(copy: Path, place: Path, console: Console | None) -> bool:
    """Whether the file at ``place`` was copied and is the published one; ``console`` is told why not."""
    if place.parent == Path(tempfile.gettempdir()) and not _only_ours(place):
        reason = "others may have put it there"
    else:
        shutil.copyfile(place, copy)
        found = files_digest([copy])
        if found == DIGEST:
            return True
        reason = f"it is another file than the published one (its SHA-256 begins with {found[:8]}, not {DIGEST[:8]})"
    if console is not None:
        console.warn(f"{place} is not used: {reason}")
    return False


def _only_ours(path: Path) -> bool:
    """Whether nobody but this user can have made, changed or replaced a file in a folder that all may write to."""
    if not hasattr(os, "getuid"):
        # Without POSIX owners temporary folders are each user's own.
        return True
    file, folder = path.lstat(), path.parent.stat()
    kept = bool(folder.st_mode & stat.S_ISVTX) or not folder.st_mode & OTHERS_WRITE
    return stat.S_ISREG(file.st_mode) and file.st_uid == os.getuid() and not file.st_mode & OTHERS_WRITE and kept
