"""From the base in a preset to files on this machine: shipped, local, or fetched from the Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import RunError, UsageError, explain, is_unreachable
from ..presets.folders import SHIPPED_PREFIX, beside_presets
from ..presets.places import expanded
from .configs import check_configs
from .digests import check_shipped
from .stored import INDEX_SUFFIX, shards_of

BASE = "--base PATH"
LOCAL_COPY = f"name a local copy: {BASE}"
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")

# Which files of a repository are fetched, as the Hub's client reads patterns: * also matches a slash.
# What pipelines call their networks.
COMPONENTS = ("transformer", "unet")
SECOND = "transformer_2"  # beside the first, of models of two networks
NETWORK = (
    "config.json",
    "diffusion_pytorch_model*.safetensors*",
    "model_index.json",
    *(f"{name}/*" for name in (*COMPONENTS, SECOND)),
)
CONFIGS = ("*config.json", "*model_index.json")
ENCODERS = ("model_index.json", "text_encoder*", "tokenizer*", "processor/*", "scheduler/*", "vae/*")

_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<inside>.+))?")


def locate(base: str, revision: str | None = None, only: Sequence[str] = NETWORK, option: str = BASE) -> Path:
    """The folder or file of ``base``; the Hub is asked only for what is not in the cache.

    Args:
        base: ``preset:NAME`` (shipped beside the presets), a path on this machine, or a Hub id ``owner/name``, which
            may go on with a folder or a checkpoint file inside the repository.
        revision: commit, branch or tag on the Hub; None is the newest. Of no meaning for the others.
        only: patterns of the files that are needed, relative to the folder; a checkpoint file needs only itself.
        option: what hints say to name another place with.

    Raises:
        UsageError: there is no such path, repository, revision or file.
        RunError: the Hub cannot be reached or denies access, or the files are incomplete, or no longer those that were
            shipped.
    """
    if base.startswith(SHIPPED_PREFIX):
        place = beside_presets(base.removeprefix(SHIPPED_PREFIX))
        # This comes first, since a damaged shipped file is to be installed again, and not copied.
        check_shipped([place] if place.is_file() else _matching(place, only))
        return _existing(place, base, only, option)
    if (match := hub_id(base)) is None:
        return _existing(expanded(base), base, only, option)
    repository, inside = match
    place = _fetch(repository, inside, revision, only, option)
    hint = f"run the same command again with a network, or {_local_copy(option)}"
    _refuse_incomplete(place, only, f"the download of {base} is incomplete", hint)
    return place


def require_base(base: str) -> None:
    """Raise UsageError where a base on this machine is not there; the Hub is not asked."""
    if hub_id(base) is None:
        locate(base)


def hub_id(base: str) -> tuple[str, str] | None:
    """Repository and path inside it ("" for all of it), or None for a path on this machine.

    models/flux reads like a repository too: where there is a folder models, the Hub is not asked for a file that is not
    in it.
    """
    match = _HUB_ID.fullmatch(base)
    if match is None or ".." in base or "\\" in base or Path(base.partition("/")[0]).exists():
        return None
    inside = match["inside"]
    if inside is None:
        # weights/model.pth is a file that is not there, no repository of that name.
        return None if base.endswith(CHECKPOINT_SUFFIXES) else (base, "")
    return match["repository"], inside.rstrip("/")


def network_folder(folder: Path) -> Path:
    """The network's folder in that of a pipeline; a network's folder is its own."""
    return next((folder / name for name in COMPONENTS if (folder / name).is_dir()), folder)


def _local_copy(option: str) -> str:
    return LOCAL_COPY.replace(BASE, option)


def _existing(path: Path, base: str, only: Sequence[str], option: str) -> Path:
    if not path.exists():
        called = "" if path == Path(base) else f", which the preset calls {base}"
        hint = f"name a folder or a Hub id: {option}"
        if _HUB_ID.fullmatch(base):
            hint += f"; a repository of that name is not looked for where there is a folder {base.partition('/')[0]}"
        raise UsageError(f"there is nothing at {path}{called}", hint)
    _refuse_incomplete(path, only, f"{path} is incomplete", f"copy it again, or {_local_copy(option)}")
    return path


def _fetch(repository: str, inside: str, revision: str | None, only: Sequence[str], option: str) -> Path:
    import huggingface_hub

    if inside.endswith(CHECKPOINT_SUFFIXES):
        patterns = [inside]
    else:
        patterns = [str(PurePosixPath(inside, pattern)) for pattern in only]
    request: dict[str, Any] = {"revision": revision, "allow_patterns": patterns}
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, **request))
    except Exception as error:
        if not is_unreachable(error):
            raise _explained(repository, error, option) from error
        try:
            folder = Path(huggingface_hub.snapshot_download(repository, **request, local_files_only=True))
        except Exception as missing:
            raise _explained(repository, error, option) from missing
    if not _matching(folder, patterns):
        hint = f"look at the files on its page on the Hub, or {_local_copy(option)}"
        raise UsageError(f"{repository} holds no {' or '.join(patterns)}", hint)
    return folder / inside


def _explained(repository: str, error: Exception, option: str) -> Exception:
    """The error for what went wrong with ``repository``; the exception itself where it is no known one."""
    known = explain(error)
    return (
        error
        if known is None
        else type(known)(f"{repository}: {known.message}", f"{known.hint}; or {_local_copy(option)}")
    )


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files below ``folder`` that any pattern takes, read as the Hub's client reads them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        path for path in files if any(fnmatch(path.relative_to(folder).as_posix(), pattern) for pattern in patterns)
    ]


def _refuse_incomplete(place: Path, only: Sequence[str], what: str, hint: str) -> None:
    """Raise RunError where, among the needed files, a shard of an index is missing or a config is damaged."""
    check_configs(_matching(place, only), hint)
    for index in [path for path in _matching(place, only) if path.name.endswith(INDEX_SUFFIX)]:
        try:
            shards_of(index)
        except RunError as error:
            raise RunError(f"{what}: {error.message}", hint) from error
