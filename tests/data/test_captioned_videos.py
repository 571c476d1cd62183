"""Folders and shards of videos with captions: found, counted, left out, and encoded once into latents with frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from fake_encoders import IDENTITY, FakeEncoders
from picture_files import encoded, put, shard
from torch import Tensor
from torch.nn.functional import avg_pool2d
from video_files import CAPTIONS, captioned_videos, gif, noisy_gif

from piflow_cli.console import Console
from piflow_cli.data.captioned import list_pictures
from piflow_cli.data.encode import open_encoded
from piflow_cli.data.encoded import EncodedData
from piflow_cli.data.sources import local_samples
from piflow_cli.data.videos import clip
from piflow_cli.errors import UsageError
from piflow_cli.presets.schema import DataSection
from piflow_cli.teachers.encoders import EncoderFactory

FRAMES, RATE = 5, 10


def expected_latents(videos: Tensor) -> Tensor:
    """Means over colours and over 2 x 2 pixels of every fourth frame from the first on: (B, 1, F, H/2, W/2)."""
    return avg_pool2d(videos[:, :, ::4].mean(dim=1), 2)[:, None]


class FakeVideoEncoders(FakeEncoders):
    """Takes one video at a time."""

    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self._count()
        assert images.ndim == 5 and images.shape[:2] == (1, 3) and images.dtype == torch.float32
        self.images += 1
        mean = expected_latents(images)
        return mean, torch.zeros_like(mean)


def factory_of(encoders: FakeEncoders | None, rate: int = RATE) -> EncoderFactory:
    """``encoders``: None, where none may be opened."""

    def opened(device: torch.device, offload: bool) -> FakeEncoders:
        assert encoders is not None, "the encoders were loaded although the cache is complete"
        return encoders

    return EncoderFactory(
        dict(IDENTITY), latent_channels=1, downsampling=2, size_multiple=4, open=opened, frame_step=4, frame_rate=rate
    )


def section_of(source: Path | str, tmp_path: Path, **others: object) -> DataSection:
    given = {"captioned": str(source), "sizes": ((12, 8), (8, 8)), "frames": FRAMES, "cache": str(tmp_path / "cache")}
    return DataSection(**{**given, **others})


def opened(section: DataSection, encoders: FakeEncoders | None, data_free: bool = False, rate: int = RATE):
    return open_encoded(section, data_free, False, factory_of(encoders, rate), Accelerator(cpu=True), Console())


def batches(data: EncodedData, count: int = 3) -> dict[str, Tensor | None]:
    """The latents of each caption."""
    found = [data.batch(0, place, 1) for place in range(count)]
    return {batch.texts[0]: batch.x_0 for batch in found}


@pytest.fixture
def folder(tmp_path) -> Path:
    return captioned_videos(tmp_path / "videos")


def test_videos_become_latents_of_their_bucket_once(folder, tmp_path, capsys) -> None:
    section = section_of(folder, tmp_path)
    data = opened(section, encoders := FakeVideoEncoders())
    assert encoders.images == 3 and data.left_out == 0
    found = batches(data)
    assert found.keys() == set(CAPTIONS)
    for number, caption in enumerate(CAPTIONS):
        size = (8, 8) if number == 2 else (12, 8)
        video = clip((folder / f"{number}.gif").read_bytes(), size, FRAMES, RATE)
        torch.testing.assert_close(found[caption], expected_latents(video[None]))
    assert {bucket.shape for bucket in data.buckets} == {(1, 2, 4, 6), (1, 2, 4, 4)}
    capsys.readouterr()
    again = batches(opened(section, None))
    assert all(torch.equal(again[caption], found[caption]) for caption in CAPTIONS)
    assert "latents: 3 found in " in capsys.readouterr().err


def test_another_number_of_frames_or_rate_has_latents_of_its_own(folder, tmp_path) -> None:
    section = section_of(folder, tmp_path)
    prints = {opened(section, FakeVideoEncoders()).fingerprint}
    # Of a family whose videos are shown faster: other frames of the same videos.
    prints.add(opened(section, encoders := FakeVideoEncoders(), rate=20).fingerprint)
    assert encoders.images == 3 and encoders.texts == []
    prints.add(opened(replace(section, frames=9), encoders := FakeVideoEncoders()).fingerprint)
    assert encoders.images == 3 and len(prints) == 3


def test_captions_alone_when_data_free(folder, tmp_path) -> None:
    data = opened(section_of(folder, tmp_path), encoders := FakeVideoEncoders(), data_free=True)
    assert encoders.images == 0 and set(batches(data)) == set(CAPTIONS)
    assert set(batches(data).values()) == {None} and data.batch(0, 0, 2).shape[1:] in ((1, 2, 4, 6), (1, 2, 4, 4))


@pytest.mark.parametrize("data_free", [True, False])
def test_what_cannot_be_used_is_counted_and_named(folder, tmp_path, capsys, data_free: bool) -> None:
    whole = (folder / "0.gif").read_bytes()
    (folder / "1.txt").unlink()
    late = whole[: len(whole) // 2] + b";"
    files = {"cut.gif": whole[:-9], "short.gif": gif([1, 2, 3, 4]), "text.gif": b"no video", "late.gif": late}
    put(folder, files | {f"{Path(name).stem}.txt": "a text" for name in files})
    data = opened(section_of(folder, tmp_path), FakeVideoEncoders(), data_free=data_free)
    said = capsys.readouterr().err
    assert "skipped 5 of the videos: " in said and data.left_out == 5
    assert "1 without a caption (1.gif)" in said and "1 too short (short.gif: 0.40 s of 0.50 s)" in said
    assert "3 unreadable (cut.gif: cut off: its end is missing, late.gif: " in said
    assert set(batches(data, 2)) == {"a fox", "red"}


def test_half_a_frame_may_be_missing(tmp_path) -> None:
    """Of five at ten a second: 0.45 s are enough, 0.44 are not."""
    for name, last in (("a", 50), ("b", 40)):
        put(tmp_path / "videos", {f"{name}.gif": gif(range(5), [100] * 4 + [last]), f"{name}.txt": name})
    data = opened(section_of(tmp_path / "videos", tmp_path), FakeVideoEncoders())
    assert data.left_out == 1 and set(batches(data, 1)) == {"a"}


def test_nothing_but_videos_that_cannot_be_used_is_an_error(tmp_path) -> None:
    put(tmp_path / "videos", {"a.gif": gif([1]), "a.txt": "a fox"})
    with pytest.raises(UsageError, match=r"no video of .* can be used: 1 too short \(a.gif: 0.10 s of 0.50 s\)"):
        opened(section_of(tmp_path / "videos", tmp_path), FakeVideoEncoders())


def test_captions_stand_where_those_of_pictures_do(tmp_path) -> None:
    row = {"file_name": "a.gif", "text": "one"}
    put(tmp_path / "listed", {"a.gif": gif([1, 2]), "metadata.jsonl": json.dumps(row)})
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards" / "a.tar", {"1.gif": gif([1, 2]), "1.json": '{"text": "one"}', "1.jpg": encoded()})
    found = {
        name: {video.name: video.caption for video in list_pictures(section_of(tmp_path / name, tmp_path))}
        for name in ("listed", "shards")
    }
    assert found == {"listed": {"a.gif": "one"}, "shards": {"a.tar/1.gif": "one"}}


def test_what_has_a_caption_is_tried_and_what_is_beside_a_video_is_not(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("piflow_cli.data.captioned.find_spec", lambda name: "there")
    files = {"a.mp4": b"", "a.txt": "one", "a.png": encoded(), "b.WEBM": b"", "c.ogv": b"", "c.txt": "three"}
    put(tmp_path / "videos", files | {"d.png": encoded()})
    section = section_of(tmp_path / "videos", tmp_path)
    found = {video.name: video.caption for video in list_pictures(section)}
    assert found == {"a.mp4": "one", "b.WEBM": None, "c.ogv": "three"}
    assert local_samples(section).texts == ("one", "three")


def test_the_package_that_reads_videos_is_asked_for_before_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("piflow_cli.data.captioned.find_spec", lambda name: None)
    put(tmp_path / "videos", {"a.gif": gif([1, 2]), "a.txt": "one", "b.mp4": b"", "b.txt": "two", "z.mov": b""})
    with pytest.raises(UsageError) as caught:
        list_pictures(section_of(tmp_path / "videos", tmp_path))
    assert caught.value.message == f"2 of 3 videos of {tmp_path / 'videos'} need the package av (b.mp4, z.mov)"
    assert caught.value.hint == 'pip install "piflow[video]"'
    # GIFs need none.
    assert len(list_pictures(section_of(tmp_path / "videos", tmp_path, limit=1))) == 1


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("source", ["folder", "shard"])
def test_a_source_of_the_other_kind_is_refused_in_one_line(tmp_path, source: str, captions: bool) -> None:
    texts = {"a.txt": "one", "b.txt": "two"} if captions else {}
    for name, content in (("pictures", {"a.png": encoded(), "b.jpg": encoded()}), ("videos", {"a.mp4": b"0"})):
        made = tmp_path / name
        if source == "shard":
            made.mkdir()
            shard(made / "a.tar", content | texts)
        else:
            put(made, content | ({"a.txt": "one", "b.txt": "two"} if captions and name == "pictures" else {}))
            if captions:
                (made / "a.txt").write_text("one")
    for holds, wants, frames in (("pictures", "videos", FRAMES), ("videos", "pictures", None)):
        with pytest.raises(UsageError) as caught:
            list_pictures(section_of(tmp_path / holds, tmp_path, frames=frames))
        told = caught.value.message
        assert told == f"{tmp_path / holds} holds {holds} and no {wants}, and this teacher makes {wants}"
        assert caught.value.hint == f"name {wants} in their place: --data SOURCE"


def test_a_gif_is_a_picture_to_teachers_of_pictures(tmp_path) -> None:
    put(tmp_path / "gifs", {"a.gif": noisy_gif(6), "a.txt": "one"})
    for frames in (None, FRAMES):
        (found,) = list_pictures(section_of(tmp_path / "gifs", tmp_path, frames=frames))
        assert found.caption == "one"


def test_videos_are_read_from_no_data_set(tmp_path) -> None:
    section = section_of("nobody/videos", tmp_path)
    for read in (list_pictures, local_samples):
        with pytest.raises(UsageError, match="videos are read from folders and .tar shards alone") as caught:
            read(section)
    assert caught.value.hint == "name a folder that holds some: --data FOLDER"
