"""Pictures with captions: from folders, shards and data sets, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from picture_files import encoded, put, shard
from PIL import Image

from piflow_cli.errors import UsageError
from piflow_cli.preset_schema import DataSection
from piflow_cli.pictures import Unreadable, open_picture, upright_size
from piflow_cli.training.captioned import list_pictures
from piflow_cli.training.picture import Picture


def captions(source: Path | str, **options: object) -> dict[str, str | None]:
    return {picture.name: picture.caption for picture in listed(source, **options)}


def listed(source: Path | str, **options: object) -> list[Picture]:
    return list_pictures(DataSection(captioned=str(source), resolution=64, **options))


def refusal(source: Path | str, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        listed(source, **options)
    assert caught.value.hint
    return caught.value.message


def test_captions_beside_the_pictures(tmp_path):
    files = {"b.png": encoded(), "b.txt": " two \n", "sub/a.JPG": encoded(kind="JPEG"), "sub/a.txt": "one"}
    files |= {"c.webp": encoded(kind="WEBP")}
    put(tmp_path, {**files, "notes.md": "", "d.png": encoded(), "d.txt": " \n", ".hidden/e.png": encoded(), "lonely.txt": "x"})
    assert captions(tmp_path) == {"b.png": "two", "c.webp": None, "d.png": None, "sub/a.JPG": "one"}
    assert [picture.read() for picture in listed(tmp_path)][0] == files["b.png"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_captions_in_a_metadata_file(tmp_path, name):
    rows = [("a.png", "one, two"), ("sub/b.png", "three")]
    if name.endswith("jsonl"):
        text = "\n".join(json.dumps({"file_name": file, "text": caption, "license": "x"}) for file, caption in rows)
    else:
        text = "file_name,text\n" + "\n".join(f'{file},"{caption}"' for file, caption in rows)
    put(tmp_path, {"a.png": encoded(), "sub/b.png": encoded(), "c.png": encoded(), "c.txt": "four", name: text})
    assert captions(tmp_path) == {"a.png": "one, two", "c.png": "four", "sub/b.png": "three"}


def test_all_faults_of_a_metadata_file_come_at_once(tmp_path):
    lines = ['{"file_name": "a.png", "text": "fine"}', "", '{"file_name": "z.png", "text": "b"}']
    lines += ['{"file_name": "a.png"}', '{"text": "b"}', '{"file_name": "a.png", "text": 3}']
    put(tmp_path, {"a.png": encoded(), "metadata.jsonl": "\n".join(lines)})
    message = refusal(tmp_path)
    assert "metadata.jsonl: 5 faults" in message
    for expected in (
        "line 2: is empty",
        "line 3: there is no file z.png",
        "line 4: text is missing",
        "line 5: file_name is missing",
        "line 6: text is no text",
    ):
        assert expected in message


def test_shards_group_their_members_by_name(tmp_path):
    first = {"x/0001.png": encoded(), "x/0001.txt": "one", "x/0002.jpg": encoded(kind="JPEG"), "x/0002.json": '{"text": "two", "n": 1}'}
    second = {"0001.seg.png": encoded(), "0001.png": encoded((5, 5)), "0001.txt": b"\xff"}
    second |= {"0002.png": encoded(), "0002.json": "{", "0003.txt": "alone"}
    shard(tmp_path / "a.tar", first)
    shard(tmp_path / "b.tar", second)
    expected = {"a.tar/x/0001.png": "one", "a.tar/x/0002.jpg": "two", "b.tar/0001.png": None, "b.tar/0002.png": None}
    assert captions(tmp_path) == expected
    assert captions(tmp_path / "a.tar") == {name: caption for name, caption in expected.items() if name.startswith("a.tar")}
    contents = {picture.name: picture.read() for picture in listed(tmp_path)}
    assert contents["a.tar/x/0002.jpg"] == first["x/0002.jpg"] and contents["b.tar/0001.png"] == second["0001.png"]


def test_another_column_may_hold_the_caption(tmp_path):
    put(tmp_path / "folder", {"a.png": encoded(), "metadata.jsonl": '{"file_name": "a.png", "caption": "one"}'})
    assert captions(tmp_path / "folder", text_column="caption") == {"a.png": "one"}
    path = shard(tmp_path / "a.tar", {"1.png": encoded(), "1.json": '{"caption": "one"}'})
    assert captions(path, text_column="caption") == {"a.tar/1.png": "one"}


def test_sources_without_pictures(tmp_path):
    put(tmp_path, {"empty/notes.txt": "", "both/a.png": encoded()})
    shard(tmp_path / "both" / "b.tar", {"a.png": encoded()})
    shard(tmp_path / "no.tar", {"a.txt": "a"})
    assert "holds no pictures" in refusal(tmp_path / "empty")
    assert "holds both pictures and .tar shards" in refusal(tmp_path / "both")
    assert "hold no pictures" in refusal(tmp_path / "no.tar")
    for source in ("nowhere", tmp_path / "nowhere.tar", tmp_path / "empty" / "notes.txt"):
        assert "there are no pictures at" in refusal(source)


def test_damaged_shards_are_all_named(tmp_path):
    whole = shard(tmp_path / "a.tar", {"1.png": encoded((64, 64)), "1.txt": "one"}).read_bytes()
    put(tmp_path, {"b.tar": whole[:600], "c.tar": b"no tar at all" * 100})
    message = refusal(tmp_path)
    assert "b.tar" in message and "c.tar" in message and "a.tar" not in message


def test_pictures_of_a_dataset(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    metadata = "\n".join(json.dumps({"file_name": f"{name}.png", "caption": name}) for name in "ab")
    put(tmp_path / "set" / "train", {"a.png": encoded(), "b.png": encoded((9, 9)), "metadata.jsonl": metadata})
    data = datasets.load_dataset(str(tmp_path / "set"), split="train")
    monkeypatch.setattr(datasets, "load_dataset", lambda source, split: data)
    options = {"text_column": "caption"}
    assert captions("owner/name", **options) == {"owner/name[0]": "a", "owner/name[1]": "b"}
    assert [upright_size(picture.read()) for picture in listed("owner/name", **options)] == [(4, 3), (9, 9)]
    assert "has no column text" in refusal("owner/name")
    assert "the column caption of owner/name holds no pictures" in refusal("owner/name", image_column="caption", **options)


def test_a_turned_picture_is_turned_back():
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded((4, 3), kind="JPEG", exif=turned)
    assert upright_size(data) == (3, 4) == open_picture(data).size
    assert upright_size(encoded((4, 3))) == (4, 3) == open_picture(encoded((4, 3))).size


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (0, 255), (0, 0, 0)),
        ("L", 7, (7, 7, 7)),
        ("P", 0, (0, 0, 0)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_every_kind_of_picture_becomes_rgb(mode, colour, expected):
    picture = open_picture(encoded(mode=mode, colour=colour))
    assert picture.mode == "RGB" and picture.getpixel((0, 0)) == expected


@pytest.mark.parametrize("read", [upright_size, open_picture])
@pytest.mark.parametrize("data", [b"", b"no picture", encoded()[:20]])
def test_bytes_that_are_no_picture(read, data):
    with pytest.raises(Unreadable, match="."):
        read(data)


def test_a_picture_that_is_cut_short_shows_when_it_is_decoded():
    data = encoded((64, 64), kind="JPEG")
    assert upright_size(data[:-20]) == (64, 64)
    with pytest.raises(Unreadable, match="truncated"):
        open_picture(data[:-20])
