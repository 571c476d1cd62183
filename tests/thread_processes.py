"""The processes of a run as threads of this one, which tell each other what real ones would: by pickles."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from piflow_cli.errors import PiflowError
from piflow_cli.system.group import Processes


class Board:
    """Where threads leave what they tell. One works at a time: libraries do not make models in two threads at once."""

    def __init__(self, count: int) -> None:
        self.told: list[bytes] = [b""] * count
        self.all = threading.Barrier(count, timeout=120)
        self.turn = threading.Lock()

    def wait(self) -> None:
        """Let the others work until all are here; for one that holds the turn."""
        self.turn.release()
        try:
            self.all.wait()
        finally:
            self.turn.acquire()


class ThreadPeers:
    """One thread's view of the others."""

    def __init__(self, board: Board, rank: int) -> None:
        self.board, self.rank = board, rank

    def tell_all(self, told: object) -> list[Any]:
        self.board.told[self.rank] = pickle.dumps(told)
        self.board.wait()
        answers = [pickle.loads(content) for content in self.board.told]
        self.board.wait()
        return answers

    def tell_first(self, told: object) -> list[Any]:
        answers = self.tell_all(told)
        return answers if self.rank == 0 else []


def in_threads(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What ``work`` returned, or the exception that it raised, on each of ``count`` processes on the CPU."""
    board = Board(count)

    def run(rank: int) -> Any:
        try:
            with board.turn:
                return work(Processes(torch.device("cpu"), rank, count, ThreadPeers(board, rank)))
        except Exception as error:
            if not isinstance(error, PiflowError):
                # A process that ends so ends the others too.
                board.all.abort()
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def opening(monkeypatch, place: str) -> Callable[[int, Callable[[], Any]], list[Any]]:
    """:func:`in_threads` for a function that opens its processes by ``open_processes`` of the module ``place``."""
    own = threading.local()
    monkeypatch.setattr(f"{place}.open_processes", lambda device: own.processes)

    def run(count: int, work: Callable[[], Any]) -> list[Any]:
        def opened(processes: Processes) -> Any:
            own.processes = processes
            return work()

        return in_threads(count, opened)

    return run
