"""One command on one process or on several."""

from __future__ import annotations

from collections.abc import Callable

import typer


def start(
    processes: int,
    context: typer.Context,
    run: Callable[[], None],
    preemptible: bool = False,
) -> None:
    """Launch ``processes`` of this command, or ``run`` it here where it is launched already or needs no other.

    ``preemptible``: as :func:`~piflow_cli.system.processes.launch` has it.
    """
    from piflow_cli.ranks import launched_processes
    from piflow_cli.system.processes import follow_launcher, launch

    if processes > launched_processes():
        launch(context.find_root().obj, processes, preemptible)
    else:
        follow_launcher()
        run()
