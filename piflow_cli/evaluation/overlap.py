"""Two kinds of work at once: pictures are looked at while the next ones are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from ..system.devices import usable_cores

# Of batches that wait to be looked at: one hides a slow batch of either side, and more would only take memory.
WAITING = 1


class Overlap:
    """A thread of its own, with a CUDA stream of its own where there is one, for what follows generation.

    Work is done in the order in which it comes. At most WAITING batches wait while one is worked on: whoever makes
    pictures faster than they are looked at is held up, so that memory does not grow with the number of pictures.

    On a CPU whose cores generation uses all, two networks at once only hinder
    each other: work is done on the spot then.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # A new thread starts with OpenMP's own number of threads, whatever torch was told before.
        threads = {"initializer": torch.set_num_threads, "initargs": (torch.get_num_threads(),)}
        self._worker = ThreadPoolExecutor(1, "piflow-features", **threads) if has_room(device) else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pending: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None], tensors: Sequence[Tensor] = ()) -> None:
        """Have ``work`` done behind the caller; ``tensors`` is what it reads of the
        caller's. Raises what earlier work raised."""
        if self._worker is None:
            work()
            return
        self._pending.append(self._worker.submit(self._on_stream(work, tensors)))
        while len(self._pending) > WAITING + 1:
            self._pending.popleft().result()

    def __enter__(self) -> Overlap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft().result()
        finally:
            if self._worker is not None:
                self._worker.shutdown(wait=True, cancel_futures=True)

    def _on_stream(self, work: Callable[[], None], tensors: Sequence[Tensor]) -> Callable[[], None]:
        stream = self._stream
        if stream is None:
            return work
        ready = torch.cuda.current_stream(self.device).record_event()
        for tensor in tensors:
            # The caller drops it while the stream may still read it, and the allocator is to know.
            tensor.record_stream(stream)

        def streamed() -> None:
            with torch.cuda.stream(stream):
                stream.wait_event(ready)
                work()

        return streamed


def has_room(device: torch.device) -> bool:
    """Whether a second thread finds anything to run on beside the first: a stream, or cores."""
    if device.type == "cpu":
        return usable_cores() >= 2 * torch.get_num_threads()
    return device.type == "cuda"
