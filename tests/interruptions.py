"""A user who stops a run: Ctrl-C at the end of a step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from piflow_cli.training import loop
from piflow_cli.training.loop import Session


def interrupted_at(iteration: int) -> Callable[[Session], None]:
    """A training step that presses Ctrl-C once ``iteration`` is done."""

    def step(session: Session) -> None:
        loop.train_step(session)
        if session.iteration == iteration:
            os.kill(os.getpid(), signal.SIGINT)

    return step
