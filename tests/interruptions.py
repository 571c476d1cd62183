"""Who stops a run: Ctrl-C or another signal at the end of a step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from piflow_cli.training import loop
from piflow_cli.training.loop import Session


def interrupted_at(iteration: int, number: int = signal.SIGINT) -> Callable[[Session], None]:
    """A training step that sends signal ``number``, Ctrl-C's own, once ``iteration`` is done."""

    def step(session: Session) -> None:
        loop.train_step(session)
        if session.iteration == iteration:
            os.kill(os.getpid(), number)

    return step
