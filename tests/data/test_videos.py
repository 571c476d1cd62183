"""Videos from their bytes: how long they are, which clip is taken and what of them cannot be used."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import gif, noisy_gif

from piflow_cli.data.buckets import fit
from piflow_cli.data.pictures import Unreadable
from piflow_cli.data.videos import clip, measure, shown_at, too_short
from piflow_cli.reports.videos import gif_of, mp4_of


def values(data: bytes, frames: int, rate: int) -> list[int]:
    """The grey value of each frame of a clip, which is of one colour."""
    found = clip(data, (4, 4), frames, rate)
    assert found.shape == (3, frames, 4, 4) and found.dtype == torch.float32
    assert (found == found[:, :, :1, :1]).all()
    return [round(127.5 * (value + 1)) for value in found[0, :, 0, 0].tolist()]


@pytest.mark.parametrize(
    ("frames", "rate", "expected"),
    [
        (5, 10, [3, 4, 5, 6, 7]),
        (10, 10, list(range(10))),
        (3, 5, [3, 5, 7]),
        (4, 20, [4, 4, 5, 5]),
        (1, 10, [5]),
    ],
)
def test_a_clip_is_in_the_middle_at_its_own_rate(frames: int, rate: int, expected: list[int]) -> None:
    """Ten frames, one each tenth of a second."""
    assert values(gif(range(10)), frames, rate) == expected


@pytest.mark.parametrize("rate", [8, 16, 24, 25, 30])
def test_a_gif_at_the_rate_of_the_clip_comes_out_frame_by_frame(rate: int) -> None:
    """Whatever its hundredths of a second are rounded to."""
    data = gif_of([Image.new("L", (8, 8), 3 * number) for number in range(17)], rate)
    size, seconds = measure(data)
    assert size == (8, 8) and not too_short(seconds, 17, rate) and too_short(seconds, 21, rate)
    assert values(data, 17, rate) == [3 * number for number in range(17)]


def test_each_frame_is_shown_as_long_as_the_video_says() -> None:
    """For 0.3, 0.1 and 0.6 s; and a frame that says nothing, or less than browsers believe, for 0.1 s."""
    data = gif([10, 20, 30], [300, 100, 600])
    assert measure(data) == ((8, 6), 1.0) and values(data, 5, 5) == [10, 20, 30, 30, 30]
    assert measure(gif([10, 20, 30], [0, 10, 200]))[1] == pytest.approx(0.4)


def test_frames_are_scaled_and_cut_as_pictures_are() -> None:
    data = noisy_gif(3)
    with Image.open(io.BytesIO(data)) as video:
        for place, found in enumerate(clip(data, (16, 16), 3, 10).unbind(dim=1)):
            video.seek(place)
            assert torch.equal(found, fit(video.convert("RGB"), (16, 16)))


def test_no_more_is_decoded_than_the_last_time_takes() -> None:
    def frames():
        for place in range(4):
            yield Fraction(place), place
        raise AssertionError("read on")

    assert list(shown_at(frames(), [Fraction(1, 2), Fraction(1), Fraction(5, 2)])) == [0, 1, 2]
    assert list(shown_at([(Fraction(0), "a")], [Fraction(0), Fraction(9)])) == ["a", "a"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "cut off"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[: len(data) // 2] + b";", "."),
        (lambda data: data[:8] + b";", "."),
        (lambda data: b"no video", "."),
        (lambda data: b"", "."),
    ],
)
def test_a_damaged_video_says_so(damage, message: str) -> None:
    data = damage(noisy_gif(6))
    for read in (measure, lambda data: clip(data, (16, 16), 5, 10)):
        with pytest.raises(Unreadable, match=message):
            read(data)


def test_without_the_package_all_but_gifs_are_unreadable(monkeypatch) -> None:
    monkeypatch.setattr("piflow_cli.data.videos.find_spec", lambda name: None)
    with pytest.raises(Unreadable, match="the package av is not installed"):
        measure(b"\0\0\0\x18ftypmp42")
    assert measure(gif([1, 2]))[0] == (8, 6)


@dataclass
class Packet:
    pts: int | None
    duration: int = 2
    size: int = 9
    is_discard: bool = False

    @property
    def dts(self) -> int | None:
        return self.pts


@dataclass
class Decoded:
    """A frame of 4 by 2 pixels, whose left column is white."""

    pts: int | None
    value: int
    rotation: int = 0

    def to_ndarray(self, format: str) -> np.ndarray:
        assert format == "rgb24"
        pixels = np.full((2, 4, 3), self.value, np.uint8)
        pixels[:, 0] = 255
        return pixels


@dataclass
class Opened:
    """A stand-in of a container of the package av with one stream, of twenty units a second."""

    packets: list[Packet]
    frames: list[Decoded]
    told: int = 0
    wide: object = None
    codec: object = "there"
    streams: SimpleNamespace = field(init=False)

    def __post_init__(self) -> None:
        self.stream = SimpleNamespace(
            time_base=Fraction(1, 20), average_rate=Fraction(10), frames=self.told, codec_context=self.codec,
            sample_aspect_ratio=self.wide,
        )  # fmt: skip
        self.streams = SimpleNamespace(best=lambda kind: self.stream if self.packets or self.frames else None)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *given: object) -> None:
        pass

    def demux(self, stream: object) -> list[Packet]:
        return [*self.packets, Packet(None, size=0)]

    def decode(self, stream: object) -> list[Decoded]:
        return self.frames


@pytest.fixture
def opening(monkeypatch):
    """A function after which the package av opens what it is given."""

    def opens(container: Opened) -> bytes:
        monkeypatch.setitem(sys.modules, "av", SimpleNamespace(open=lambda data: container, __spec__="there"))
        return b"a video"

    return opens


PACKETS = [Packet(4 + 2 * place) for place in (0, 2, 1, 3, 4)]
FRAMES = [Decoded(4 + 2 * place, 10 * place) for place in range(5)]


def test_the_package_av_tells_frames_and_their_times(opening) -> None:
    """Packets come in the order of decoding; some frames stand before the place where a video begins."""
    data = opening(Opened([Packet(2, is_discard=True), *PACKETS], FRAMES, told=6))
    assert measure(data) == ((4, 2), 0.5)
    for frames, rate, expected in ((5, 10, [0, 10, 20, 30, 40]), (3, 10, [10, 20, 30]), (2, 5, [10, 30])):
        found = clip(data, (4, 2), frames, rate)
        assert [round(127.5 * (value + 1)) for value in found[0, :, 1, 3].tolist()] == expected
    # Formats without times of presentation.
    data = opening(Opened([Packet(2 * place) for place in range(5)], [Decoded(None, 10 * n) for n in range(5)]))
    assert [round(127.5 * (value + 1)) for value in clip(data, (4, 2), 3, 10)[0, :, 1, 3].tolist()] == [10, 20, 30]


def test_frames_are_seen_as_a_person_sees_them(opening) -> None:
    data = opening(Opened(PACKETS, [Decoded(4, 0, rotation=-90)]))
    assert measure(data)[0] == (2, 4)
    # A quarter clockwise: what was on the left is above.
    assert (clip(data, (2, 4), 1, 10)[:, 0, 0] == 1).all() and (clip(data, (2, 4), 1, 10)[:, 0, 1:] == -1).all()
    assert measure(opening(Opened(PACKETS, FRAMES, wide=Fraction(3, 2))))[0] == (6, 2)


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (Opened([], []), "there is no video in it"),
        (Opened(PACKETS, FRAMES, codec=None), "its codec is none that av knows"),
        (Opened(PACKETS, FRAMES, told=9), "cut off: it holds 5 of its 9 frames"),
        (Opened([Packet(None)], FRAMES), "there is no frame in it"),
        (Opened(PACKETS, []), "no frame of it can be decoded"),
    ],
)
def test_what_the_package_av_cannot_use_says_why(opening, container: Opened, message: str) -> None:
    data = opening(container)
    for read in (measure, lambda data: clip(data, (4, 2), 3, 10)):
        with pytest.raises(Unreadable, match=message):
            read(data)


def written(kind: str, codec: str, values: Sequence[int], rate: int) -> bytes:
    """A video of frames of one grey each, in a container of FFmpeg's."""
    content = io.BytesIO()
    with av.open(content, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in values:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "codec"), [("matroska", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mov", "mpeg4")]
)
def test_videos_of_every_container_come_out_frame_by_frame(kind: str, codec: str) -> None:
    greys = [20 * number + 10 for number in range(12)]
    data = written(kind, codec, greys, 16)
    assert measure(data) == ((64, 48), 0.75)
    # Four frames of twelve, one a sixteenth of a second, from the middle; codecs lose a little.
    found = clip(data, (64, 48), 4, 16)[0, :, 24, 32]
    assert (127.5 * (found + 1)).tolist() == pytest.approx(greys[4:8], abs=4)
    with pytest.raises(Unreadable):
        measure(data[: len(data) // 2])


def test_an_mp4_is_read_as_it_was_written() -> None:
    images = [Image.new("RGB", (32, 16), (20 * number, 100, 255 - 20 * number)) for number in range(9)]
    data = mp4_of(images, 16)
    size, seconds = measure(data)
    assert size == (32, 16) and seconds == pytest.approx(9 / 16)
    for found, image in zip(clip(data, (32, 16), 9, 16).unbind(dim=1), images, strict=True):
        assert abs(found - fit(image, (32, 16))).max() < 0.1
    for cut in (data[: len(data) // 2], data[:40]):
        with pytest.raises(Unreadable):
            measure(cut)
