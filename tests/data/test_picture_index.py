"""What is known of pictures without reading them again, and when they are read again."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import encoded, put, shard
from PIL import Image

from piflow_cli.data.captioned import list_pictures
from piflow_cli.data.picture import Picture
from piflow_cli.data.picture_index import PictureFacts, look_at
from piflow_cli.data.pictures import Unreadable
from piflow_cli.presets.schema import DataSection
from piflow_cli.system.files import cache_key
from piflow_cli.weights.cache import Cache, as_bytes, as_text


def listed(source: Path) -> list[Picture]:
    return list_pictures(DataSection(captioned=str(source), resolution=64))


def sealed(pictures: list[Picture]) -> list[Picture]:
    """The same pictures, which must not be read."""

    def read() -> bytes:
        raise AssertionError("a picture was read again")

    return [replace(picture, read=read) for picture in pictures]


@pytest.fixture(params=["folder", "shard"])
def source(request, tmp_path) -> Path:
    files = {f"{number:02d}.png": encoded((4 + number, 3), (number, 0, 0)) for number in range(40)}
    return put(tmp_path / "pictures", files) if request.param == "folder" else shard(tmp_path / "p.tar", files)


def test_every_picture_has_its_own_hash_and_size_in_order_and_is_read_once(source, tmp_path) -> None:
    pictures = listed(source)
    found = look_at(pictures, Cache(tmp_path / "index"))
    assert found == [
        PictureFacts(hashlib.sha256(picture.read()).hexdigest(), (4 + number, 3))
        for number, picture in enumerate(pictures)
    ]
    assert look_at(sealed(pictures), Cache(tmp_path / "index")) == found
    # Fewer of them, in another order.
    assert look_at(sealed(pictures[7:2:-1]), Cache(tmp_path / "index")) == found[7:2:-1]


@pytest.mark.parametrize("change", ["content", "time", "record"])
def test_a_picture_that_may_have_changed_is_read_again(tmp_path, change) -> None:
    folder = put(tmp_path / "pictures", {"a.png": encoded((5, 4)), "b.png": encoded((6, 4))})
    before = look_at(listed(folder), Cache(tmp_path / "index"))
    (record,) = (tmp_path / "index").rglob("*.safetensors")
    if change == "content":
        Image.new("RGB", (9, 4), "blue").save(folder / "a.png")
    elif change == "time":
        os.utime(folder / "a.png", ns=(1, 1))
    else:
        record.write_text("[1, 2")
    with pytest.raises(AssertionError, match="read again"):
        look_at(sealed(listed(folder)), Cache(tmp_path / "index"))
    after = look_at(listed(folder), Cache(tmp_path / "index"))
    assert after[1] == before[1] and (after[0] != before[0]) == (change == "content")
    assert after[0].size == ((9, 4) if change == "content" else (5, 4))


def test_no_flipped_byte_of_the_record_makes_another_picture(tmp_path) -> None:
    pictures = listed(put(tmp_path / "pictures", {"a.png": encoded((5, 4)), "b.png": encoded((6, 4))}))
    found = look_at(pictures, Cache(tmp_path / "index"))
    (record,) = (tmp_path / "index").rglob("*.safetensors")
    whole = record.read_bytes()
    for place in range(len(whole)):
        record.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert look_at(pictures, Cache(tmp_path / "index")) == found
        # What is made again is whole again.
        assert look_at(sealed(pictures), Cache(tmp_path / "index")) == found


def test_what_cannot_be_read_is_said_each_time_and_not_recorded(tmp_path) -> None:
    folder = put(tmp_path / "pictures", {"a.png": b"no picture", "b.png": encoded(), "c.png": encoded()})
    pictures = listed(folder)
    (folder / "c.png").unlink()
    for _ in range(2):
        first, second, third = look_at(pictures, Cache(tmp_path / "index"))
        assert (
            isinstance(first, Unreadable) and isinstance(second, PictureFacts) and isinstance(third, FileNotFoundError)
        )


def test_a_link_to_itself_costs_only_itself(tmp_path) -> None:
    folder = put(tmp_path / "pictures", {"b.png": encoded()})
    (folder / "a.png").symlink_to("a.png")
    lost, found = look_at(listed(folder), Cache(tmp_path / "index"))
    assert isinstance(lost, OSError) and isinstance(found, PictureFacts)


def test_pictures_without_a_file_of_their_own_are_read_each_time(tmp_path) -> None:
    picture = Picture("rows[0]", "a", encoded)
    assert look_at([picture], Cache(tmp_path / "index"))[0].size == (4, 3)
    assert not (tmp_path / "index").exists()


def test_a_record_of_an_older_piflow_is_made_anew_and_that_is_said(tmp_path, caplog) -> None:
    folder = put(tmp_path / "pictures", {"a.png": encoded((5, 4))})
    records = Cache(tmp_path / "index")
    older = records.folder / f"{cache_key(places=[str(folder.resolve())])}.json"
    older.parent.mkdir()
    older.write_text("{}")
    with caplog.at_level("INFO", "piflow.data"):
        found = look_at(listed(folder), records)
    assert f"{older} is of an older piflow" in caplog.text and not older.exists()
    caplog.clear()
    with caplog.at_level("INFO", "piflow.data"):
        assert look_at(sealed(listed(folder)), records) == found
    assert not caplog.records


@given(st.text())
def test_a_text_in_an_entry_is_the_same_text(text: str) -> None:
    assert as_text(as_bytes(json.dumps(text))) == json.dumps(text)
