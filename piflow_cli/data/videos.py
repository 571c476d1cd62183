"""Videos from their bytes: GIFs by Pillow, all else by the package av; the clip of one that a run trains on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from itertools import count
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..errors import first_line
from .buckets import Size, fit
from .pictures import Unreadable, on_white, opened_picture

T = TypeVar("T")

GIF = ".gif"
SUFFIXES = (".avi", GIF, ".m4v", ".mkv", ".mov", ".mp4", ".webm")
PACKAGE = "av"  # of piflow[video]
CLIP = "middle"
GIF_MARKS, GIF_END = (b"GIF87a", b"GIF89a"), b";"
# Browsers take less than two hundredths of a second for a mistake, and show such frames for ten.
SHORTEST, IN_ITS_PLACE = 20, 100  # milliseconds

Frame = tuple[Fraction, Callable[[], Image.Image]]
"""When a frame begins to be shown, in seconds from the first, and what gives it upright and in RGB."""


def measure(data: bytes) -> tuple[Size, float]:
    """Width and height as a person sees the video, and its seconds; raises Unreadable.

    A GIF is decoded to its end. Of others one frame is, by which a codec that is missing shows.
    """
    if _is_gif(data):
        sizes, shown = zip(*((picture.size, seconds) for seconds, picture in _gif_parts(data)), strict=True)
        return sizes[0], float(sum(shown))
    seconds = _stream_seconds(data)
    for _, picture in _stream_frames(data):
        return picture().size, float(seconds)
    raise Unreadable("no frame of it can be decoded")


def too_short(seconds: float, frames: int, rate: int) -> bool:
    """Whether a video is over before the middle of the last of ``frames`` frames at ``rate`` a second.

    Half a frame is forgiven: GIFs count hundredths of a second.
    """
    return seconds < (frames - 0.5) / rate


def clip(data: bytes, size: Size, frames: int, rate: int) -> Tensor:
    """The clip (3, ``frames``, H, W) float32 in [-1, 1] in the middle of a video, each frame as pictures are cut.

    It has ``rate`` frames a second: each is what the video shows at the middle of its time. A video of fewer frames a
    second repeats some. Raises Unreadable.
    """
    gif = _is_gif(data)
    length = sum((seconds for seconds, _ in _gif_parts(data)), Fraction(0)) if gif else _stream_seconds(data)
    decoded = _gif_frames(data) if gif else _stream_frames(data)
    chosen = [fit(picture(), size) for picture in shown_at(decoded, times_of(length, frames, rate))]
    if not chosen:
        raise Unreadable("no frame of it can be decoded")
    return torch.stack(chosen, dim=1)


def times_of(seconds: Fraction, frames: int, rate: int) -> list[Fraction]:
    """The middles of ``frames`` frames at ``rate`` a second that lie in the middle of a video, in seconds."""
    # Middles, not beginnings: a video of that very rate is to come out frame by frame, however its times are rounded.
    start = max(Fraction(0), (seconds - Fraction(frames, rate)) / 2)
    return [start + (place + Fraction(1, 2)) / rate for place in range(frames)]


def shown_at(frames: Iterable[tuple[Fraction, T]], times: Sequence[Fraction]) -> Iterator[T]:
    """For each of ``times``, which rise, what is shown then: the last of ``frames`` that begins no later.

    No more is read than that takes. What comes after the last frame has begun is the last frame.
    """
    left: deque[Fraction] = deque(times)
    held: tuple[T] | None = None
    for begin, frame in frames:
        while held is not None and left and left[0] < begin:
            left.popleft()
            yield held[0]
        if not left:
            return
        held = (frame,)
    if held is not None:
        yield from [held[0]] * len(left)


def _is_gif(data: bytes) -> bool:
    return data.startswith(GIF_MARKS)


def _gif_parts(data: bytes) -> Iterator[tuple[Fraction, Image.Image]]:
    """Seconds and content of each frame; raises Unreadable, also where the end is missing."""
    # Cut between two frames it would pass for a shorter one.
    if not data.rstrip(b"\0\r\n").endswith(GIF_END):
        raise Unreadable("cut off: its end is missing")
    with opened_picture(data) as picture:
        for place in count():
            try:
                picture.seek(place)
            except EOFError:
                return
            shown = picture.info.get("duration", 0)
            yield Fraction(shown if shown >= SHORTEST else IN_ITS_PLACE, 1000), on_white(picture)


def _gif_frames(data: bytes) -> Iterator[Frame]:
    begin = Fraction(0)
    for seconds, picture in _gif_parts(data):
        yield begin, lambda picture=picture: picture
        begin += seconds


@contextmanager
def _opened_stream(data: bytes) -> Generator[tuple[Any, Any]]:
    """The container and its stream of pictures; raises Unreadable for whatever goes wrong inside."""
    if find_spec(PACKAGE) is None:
        raise Unreadable(f"no GIF, and the package {PACKAGE} is not installed")
    import av

    try:
        with av.open(BytesIO(data)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise Unreadable("there is no video in it")
            if stream.codec_context is None:
                raise Unreadable("its codec is none that av knows")
            stream.thread_type = "AUTO"
            yield container, stream
    except Unreadable:
        raise
    except Exception as error:
        # Errors of FFmpeg are classes of many kinds, and so are those of what is built on it.
        raise Unreadable(first_line(error)) from error


def _stream_seconds(data: bytes) -> Fraction:
    """From the beginning of the first frame to the end of the last, by packets: nothing is decoded."""
    with _opened_stream(data) as (container, stream):
        base, usual, spans, found = _fraction(stream.time_base), _frame_seconds(stream), [], 0
        for packet in container.demux(stream):
            begin = packet.dts if packet.pts is None else packet.pts
            # The last one is empty.
            if begin is None or not packet.size:
                continue
            found += 1
            # Some stand before the place at which the video is said to begin.
            if not packet.is_discard:
                spans.append((begin * base, begin * base + (packet.duration * base if packet.duration else usual)))
        if not spans:
            raise Unreadable("there is no frame in it")
        # What the container promises may be more than there is.
        if stream.frames > found:
            raise Unreadable(f"cut off: it holds {found} of its {stream.frames} frames")
        return max(end for _, end in spans) - min(begin for begin, _ in spans)


def _stream_frames(data: bytes) -> Iterator[Frame]:
    with _opened_stream(data) as (container, stream):
        base, usual, first = _fraction(stream.time_base), _frame_seconds(stream), None
        wide = _fraction(told) if (told := stream.sample_aspect_ratio) else Fraction(1)
        for place, frame in enumerate(container.decode(stream)):
            first = frame.pts if first is None else first
            begin = place * usual if frame.pts is None else (frame.pts - first) * base
            yield begin, partial(_upright, frame, wide)


def _upright(frame: Any, wide: Fraction) -> Image.Image:
    """A decoded frame in RGB as a person sees it: pixels, which are ``wide`` times as wide as high, made square."""
    try:
        picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
    except Exception as error:
        raise Unreadable(first_line(error)) from error
    if wide != 1:
        picture = picture.resize((max(1, round(picture.width * wide)), picture.height))
    # Counter-clockwise, as Pillow turns too. Early versions of av do not tell.
    turned = getattr(frame, "rotation", 0)
    return picture.rotate(turned, expand=True) if turned else picture


def _frame_seconds(stream: Any) -> Fraction:
    """How long a frame is shown on average; 0 where nothing tells."""
    rate = stream.average_rate
    return 1 / _fraction(rate) if rate else Fraction(0)


def _fraction(value: Any) -> Fraction:
    # Newer versions of av have a class of their own.
    return Fraction(int(value.numerator), int(value.denominator))
