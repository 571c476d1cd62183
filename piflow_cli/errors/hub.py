"""Answers of the Hub, and failures of the network to it."""

from __future__ import annotations

from .base import PiflowError, RunError, UsageError
from .recognition import TableEntry, first_line, is_called, run_error


def _status(exc: BaseException | None) -> int | None:
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
    if (answered := next((link for link in chain if _status(link) is not None), None)) is not None:
        # The client looks into its cache after some refusals, and says then that the cache lacks files.
        return _hub_answer(answered)
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
    return RunError(f"the Hub answered: {first_line(exc)}", "run the same command again in a while")


def is_unreachable(exc: BaseException) -> bool:
    """Whether the Hub could not be asked at all, so that what is in the cache must do."""
    return _UNREACHABLE(exc)


# A network that is away has another class under each HTTP library that the Hub's client has used: httpx, requests,
# urllib3.
_UNREACHABLE = is_called("OfflineModeIsEnabled", "TransportError", "RequestException", "MaxRetryError")


HUB_TABLE: tuple[TableEntry, ...] = (
    (is_called("GatedRepoError"), _gated),
    (is_called("LocalTokenNotFoundError"), run_error("the Hub wants to know who asks", "hf auth login")),
    (
        is_called("RepositoryNotFoundError"),
        lambda exc: UsageError(
            "there is no such repository on the Hub, or it is private",
            "check the name; for a private one: hf auth login",
        ),
    ),
    (
        is_called("RevisionNotFoundError"),
        lambda exc: UsageError(
            "the repository has no such revision", "take the newest; distill: --set teacher.revision=null"
        ),
    ),
    (
        is_called("RemoteEntryNotFoundError"),
        lambda exc: UsageError("the repository has no such file", "look at the files on its page on the Hub"),
    ),
    (
        is_called("IncompleteSnapshotError"),
        run_error(
            "its download is incomplete, and the Hub cannot be reached",
            "check the network and run the same command again",
        ),
    ),
    (is_called("LocalEntryNotFoundError"), _unreachable),
    (
        is_called("HFValidationError"),
        lambda exc: UsageError("this is no name of a repository", "write it as owner/name"),
    ),
    (is_called("HfHubHTTPError", "FileMetadataError"), _hub_answer),
    (_UNREACHABLE, _unreachable),
)
