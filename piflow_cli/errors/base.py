"""The errors that a user can cause."""

from __future__ import annotations

import signal


class PiflowError(Exception):
    """An error with one line on what happened, and a hint on what to type next.

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
    """The user or the system stopped the run by signal ``number``.

    The exit code is a shell's own for it, 130 for Ctrl-C.
    """

    exit_code = 128 + signal.SIGINT

    def __init__(self, message: str, hint: str | None = None, number: int = signal.SIGINT) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + number


class Preempted(Interrupted):
    """The system takes the machine away (SIGTERM, SIGUSR1): what is done is saved, and nothing has failed."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = 0


class Reported(PiflowError):
    """An error that other processes of this run have reported already; only their exit code is left."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("the processes of this run have failed")
        self.exit_code = exit_code
