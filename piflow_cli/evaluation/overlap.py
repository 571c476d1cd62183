"""Two kinds of work at once: features of pictures are extracted while the next pictures are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from ..system.devices import usable_cores

# Batches that wait for the extractor: one hides a slow batch of either side, and more would only take memory.
WAITING = 1


class Overlap:
    """A thread, with a CUDA stream of its own where there is one, for what follows generation.

    It does its work in the order of arrival. At most WAITING batches wait while it works on one, and a faster producer
    is held up, so that memory does not grow with the number of pictures. On a CPU whose cores generation uses all, two
    networks at once only hinder each other: there the work is done on the spot.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # A new thread starts with OpenMP's own number of threads, whatever torch was told before.
        threads = {"initializer": torch.set_num_threads, "initargs": (torch.get_num_threads(),)}
        self._worker = ThreadPoolExecutor(1, "piflow-features", **threads) if has_room(device) else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pending: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None], tensors: Sequence[Tensor] = ()) -> None:
        """Do ``work``, which reads the caller's ``tensors``, in the background. Raises errors of earlier work."""
        if self._worker is None:
            work()
            return
        self._pending.append(self._worker.submit(self._on_stream(work, tensors)))
        while len(self._pending) > WAITING + 1:
            self._pending.popleft().result()

    def finish(self) -> None:
        """Wait until all work is done. Raises errors of it."""
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> Overlap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
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
    """Whether a second thread finds a stream or cores to run on beside the first."""
    if device.type == "cpu":
        return usable_cores() >= 2 * torch.get_num_threads()
    return device.type == "cuda"
