"""Errors a user can cause, and the one table from known exceptions to a message and the next command to type."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Callable

DEBUG_VARIABLE = "PIFLOW_DEBUG"
SHOWN = 60  # characters of a name that is too long

INSTALL_HINTS = {
    "bitsandbytes": 'pip install "piflow[lowvram]"',
    "tensorboard": 'pip install "piflow[trackers]"',
    "wandb": 'pip install "piflow[trackers]"',
    "datasets": 'pip install "piflow[data]"',
    "pyarrow": 'pip install "piflow[data]"',
    "cleanfid": 'pip install "piflow[eval]"',
    "lpips": 'pip install "piflow[eval]"',
    "torchvision": 'pip install "piflow[eval]"',
}


class PiflowError(Exception):
    """What happened, in one line, and what to type next.

    Args:
        message: one line that says what happened (a file with several faults lists them on lines of their own).
        hint: what to do next, best a command; None where nothing helps.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PiflowError):
    """The command line or a configuration file is wrong; nothing was run."""

    exit_code = 2


class RunError(PiflowError):
    """A run was started and failed."""


class Interrupted(PiflowError):
    """The user or the system stopped the run by signal ``number``; the exit code
    is a shell's own for it, 130 for Ctrl-C."""

    exit_code = 128 + signal.SIGINT

    def __init__(self, message: str, hint: str | None = None, number: int = signal.SIGINT) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + number


class Reported(PiflowError):
    """What other processes of this run have said already; nothing is left but their exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("the processes of this run have failed")
        self.exit_code = exit_code


def explain(exc: BaseException) -> PiflowError | None:
    """The user's view of an exception: itself if it has one, an entry of the table, or None if it is not known."""
    if isinstance(exc, PiflowError):
        return exc
    for recognises, describe in TABLE:
        if recognises(exc):
            return describe(exc)
    return None


def _named(*names: str) -> Callable[[BaseException], bool]:
    """Recognise a class by name: asking for the class itself would import torch or safetensors to report an error."""
    return lambda exc: any(cls.__name__ in names for cls in type(exc).__mro__)


def _is(*types: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda exc: isinstance(exc, types)


_SYSTEM_NUMBER = re.compile(r"os error (\d+)")


def system_number(exc: BaseException) -> int | None:
    """The number of the system's error behind an exception; None where it is no error of the system."""
    if isinstance(exc, OSError):
        return exc.errno
    # safetensors wraps the system's error in a class of its own and keeps the number in the text only.
    found = _SYSTEM_NUMBER.search(str(exc)) if _named("SafetensorError")(exc) else None
    return None if found is None else int(found[1])


def is_of_the_system(exc: BaseException) -> bool:
    """Whether the system refused to read or write, which says nothing about what a file holds."""
    return system_number(exc) is not None or _is_unnumbered(exc)


def _is_unnumbered(exc: BaseException) -> bool:
    # What safetensors says of a file that ends while it writes.
    return _named("SafetensorError")(exc) and "I/O error" in str(exc)


def _is_number(*numbers: int) -> Callable[[BaseException], bool]:
    return lambda exc: system_number(exc) in numbers


def _is_missing_package(exc: BaseException) -> bool:
    return isinstance(exc, ModuleNotFoundError) and exc.name is not None and not exc.name.startswith("piflow_cli")


def _place(exc: BaseException) -> str:
    name = getattr(exc, "filename", None)
    return f": {name}" if name is not None else ""


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def _interrupted(exc: BaseException) -> PiflowError:
    return Interrupted("interrupted", "run the same command again: distill and eval go on where they stopped")


def _is_too_long(exc: BaseException) -> bool:
    return isinstance(exc, OSError) and exc.errno == errno.ENAMETOOLONG


def _too_long(exc: BaseException) -> PiflowError:
    name = str(getattr(exc, "filename", ""))[:SHOWN]
    return UsageError(f"no file can have so long a name: {name}...", "check what was typed in its place")


def _missing_package(exc: BaseException) -> PiflowError:
    package = str(getattr(exc, "name", "")).partition(".")[0]
    return RunError(f"the package {package} is not installed", INSTALL_HINTS.get(package, f"pip install {package}"))


def _is_unreadable_model(exc: BaseException) -> bool:
    return isinstance(exc, OSError) and str(exc).startswith("Unable to load weights from checkpoint file")


def _unreadable_model(exc: BaseException) -> PiflowError:
    # diffusers says the path twice, and the reason not at all.
    path = _first_line(exc).partition("'")[2].partition("'")[0]
    return RunError(f"weights are corrupt or cut short: {path}", "copy or download them again")


def _status(exc: BaseException) -> int | None:
    """The HTTP status that the Hub answered with."""
    return getattr(getattr(exc, "response", None), "status_code", None)


def _gated(exc: BaseException) -> PiflowError:
    if _status(exc) == 401:
        return RunError(
            "the model is gated, and the Hub does not know who asks",
            "accept its licence on its page on the Hub, then: hf auth login",
        )
    return RunError(
        "the model is gated, and this account has no access to it",
        "accept its licence on its page on the Hub with the account that `hf auth whoami` shows",
    )


def _unreachable(exc: BaseException) -> PiflowError:
    chain = (exc, exc.__cause__)
    if any(type(link).__name__ == "OfflineModeIsEnabled" for link in chain):
        return RunError("it is not in the cache, and HF_HUB_OFFLINE forbids asking the Hub", "unset HF_HUB_OFFLINE")
    return RunError(
        "the Hub cannot be reached, and the cache lacks files of it", "check the network and run the same command again"
    )


def _hub_answer(exc: BaseException) -> PiflowError:
    if _status(exc) in (401, 403):
        return RunError("the Hub refuses the access token", "get a new one: hf auth login")
    if _status(exc) == 429:
        return RunError(
            "the Hub asks for patience: too many requests", "wait some minutes; hf auth login raises the limit"
        )
    return RunError(f"the Hub answered: {_first_line(exc)}", "run the same command again in a while")


def is_unreachable(exc: BaseException) -> bool:
    """Whether the Hub could not be asked at all, so that what is in the cache must do."""
    return _UNREACHABLE(exc)


_WANTED = re.compile(r"Tried to allocate ([\d.]+) ([KMG]iB)")
_FREE = re.compile(r"of which ([\d.]+) ([KMG]iB) is free")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _gpu_full(exc: BaseException) -> PiflowError:
    """By how much the GPU's memory was too small, where torch says it, and what makes a run smaller."""
    wanted, free = (pattern.search(str(exc)) for pattern in (_WANTED, _FREE))
    short = ""
    if wanted is not None and free is not None:
        missing = float(wanted[1]) * _UNITS[wanted[2]] - float(free[1]) * _UNITS[free[2]]
        # What torch holds in pieces too small to use is neither free nor taken, so nothing may be missing in sum.
        more = f"{missing / 1e9:.2f} GB short, " if missing > 0 else ""
        short = f": {more}{wanted[1]} {wanted[2]} wanted, {free[1]} {free[2]} free"
    return RunError(
        f"the GPU ran out of memory{short}",
        "distill: --set optimisation.gradient_checkpointing=true, then --set optimisation.device_batch_size=1,"
        " --base-precision nf4, --set imitation.states_per_query=1, --offload-base, of which --dry-run shows what each"
        " takes; sample: --batch-size 1, --offload model",
    )


def _run_error(message: str, hint: str) -> Callable[[BaseException], PiflowError]:
    """An entry whose message may use {place} (the file) and {text} (the exception's own first line)."""
    return lambda exc: RunError(message.format(place=_place(exc), text=_first_line(exc)), hint)


# A network that is away has another class under each HTTP library that the Hub's client has used: httpx, requests,
# urllib3.
_UNREACHABLE = _named("OfflineModeIsEnabled", "TransportError", "RequestException", "MaxRetryError")

Entry = tuple[Callable[[BaseException], bool], Callable[[BaseException], PiflowError]]

HUB_TABLE: tuple[Entry, ...] = (
    (_named("GatedRepoError"), _gated),
    (_named("LocalTokenNotFoundError"), _run_error("the Hub wants to know who asks", "hf auth login")),
    (
        _named("RepositoryNotFoundError"),
        lambda exc: UsageError(
            "there is no such repository on the Hub, or it is private",
            "check the name; for a private one: hf auth login",
        ),
    ),
    (
        _named("RevisionNotFoundError"),
        lambda exc: UsageError(
            "the repository has no such revision", "take the newest; distill: --set teacher.revision=null"
        ),
    ),
    (
        _named("RemoteEntryNotFoundError"),
        lambda exc: UsageError("the repository has no such file", "look at the files on its page on the Hub"),
    ),
    (
        _named("IncompleteSnapshotError"),
        _run_error(
            "its download is incomplete, and the Hub cannot be reached",
            "check the network and run the same command again",
        ),
    ),
    (_named("LocalEntryNotFoundError"), _unreachable),
    (_named("HFValidationError"), lambda exc: UsageError("this is no name of a repository", "write it as owner/name")),
    (_named("HfHubHTTPError", "FileMetadataError"), _hub_answer),
    (_UNREACHABLE, _unreachable),
)

DISK_TABLE: tuple[Entry, ...] = (
    (
        _is_number(errno.ENOSPC),
        _run_error("the disk is full{place}", "free some space, then run the same command again"),
    ),
    (
        _is_number(errno.EDQUOT),
        _run_error(
            "your quota of this disk is used up{place}", "free some space of your own, then run the same command again"
        ),
    ),
    (
        _is_number(errno.EFBIG),
        _run_error(
            "the file is larger than this system lets it be{place}",
            "raise the limit: ulimit -f unlimited; or choose another disk",
        ),
    ),
    (
        _is_number(errno.EIO),
        _run_error(
            "the disk failed to read or write{place}",
            "look at the disk or its connection, then run the same command again",
        ),
    ),
)

TABLE: tuple[Entry, ...] = (
    (_is_unreadable_model, _unreadable_model),
    (_is(KeyboardInterrupt), _interrupted),
    *DISK_TABLE,
    (_is_missing_package, _missing_package),
    *HUB_TABLE,
    (_is_too_long, _too_long),
    (_is(PermissionError), _run_error("permission denied{place}", "choose a folder you may write to: --output DIR")),
    (
        _is(FileNotFoundError),
        _run_error("no such file or folder{place}", "check the path; a relative one starts in the current folder"),
    ),
    (
        _is(FileExistsError),
        _run_error("something else is there{place}", "name another folder: --output DIR, or remove what is there"),
    ),
    (_is(NotADirectoryError), _run_error("not a folder{place}", "name a folder, or remove the file that is there")),
    (_is(IsADirectoryError), _run_error("a folder, not a file{place}", "name a file inside it")),
    (
        _is_unnumbered,
        _run_error("a file could not be written or read: {text}", "look at the disk, then run the same command again"),
    ),
    (
        _named("SafetensorError"),
        _run_error(
            "a safetensors file is corrupt or cut short: {text}",
            "copy or download it again; for a run, delete that checkpoint and the one before it is used",
        ),
    ),
    (_named("OutOfMemoryError"), _gpu_full),
    (
        _is(MemoryError),
        _run_error("out of memory", "close other programs; distill, sample and eval: a smaller --batch-size"),
    ),
)
