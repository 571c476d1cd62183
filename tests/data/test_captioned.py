"""Pictures with captions: from folders, shards and data sets, and what is wrong with them."""

from __future__ import annotations

import json
import tarfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import encoded, put, shard
from PIL import Image

from piflow_cli.data.captioned import list_pictures
from piflow_cli.data.picture import Picture
from piflow_cli.data.pictures import Unreadable, open_picture, upright_size
from piflow_cli.errors import UsageError
from piflow_cli.presets.schema import DataSection


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
    put(
        tmp_path,
        {**files, "notes.md": "", "d.png": encoded(), "d.txt": " \n", ".hidden/e.png": encoded(), "lonely.txt": "x"},
    )
    assert captions(tmp_path) == {"b.png": "two", "c.webp": None, "d.png": None, "sub/a.JPG": "one"}
    assert next(picture.read() for picture in listed(tmp_path)) == files["b.png"]


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


def listing(*rows: tuple[str, str]) -> str:
    return "\n".join(json.dumps({"file_name": name, "text": text}) for name, text in rows)


def test_every_listed_file_is_used_whatever_it_is_called(tmp_path):
    names = ["1.jpg", "2.avif", "3.gif", "4.jfif", "5.dat", "6"]
    put(tmp_path, {**{name: encoded() for name in names}, "metadata.jsonl": listing(*((name, name) for name in names))})
    assert captions(tmp_path) == {name: name for name in names}
    assert {picture.open().size for picture in listed(tmp_path)} == {(4, 3)}


def test_listed_files_are_found_however_their_path_is_written(tmp_path, monkeypatch):
    put(tmp_path, {"in/a.png": encoded(), "in/sub/b.png": encoded(), "pics/c.png": encoded(), "in/.d.png": encoded()})
    (tmp_path / "in" / "link").symlink_to("sub")
    rows = [
        (str(tmp_path / "in" / "a.png"), "absolute"),
        ("sub/../sub/b.png", "dots"),
        ("../pics/c.png", "outside"),
        (".d.png", "hidden"),
    ]
    put(tmp_path / "in", {"metadata.jsonl": listing(*rows)})
    monkeypatch.chdir(tmp_path)
    # A picture that is reached on two ways is two files to the walk, as it is to clean-fid.
    expected = {
        "a.png": "absolute",
        "sub/b.png": "dots",
        "link/b.png": "dots",
        "../pics/c.png": "outside",
        ".d.png": "hidden",
    }
    assert captions("in") == expected
    assert all(picture.open().size == (4, 3) for picture in listed("in"))


def test_metadata_beside_its_pictures(tmp_path):
    put(tmp_path, {"pics/0.png": encoded(), "meta/metadata.csv": "file_name,text\n../pics/0.png,zero\n"})
    assert captions(tmp_path) == {"pics/0.png": "zero"}


@pytest.mark.parametrize(("stored", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_the_same_in_both_forms_of_unicode(tmp_path, stored, written):
    def name(form: str, suffix: str) -> str:
        return unicodedata.normalize(form, f"Zürich/café{suffix}")

    put(
        tmp_path / "listed",
        {name(stored, ".png"): encoded(), "metadata.jsonl": listing((name(written, ".png"), "one"))},
    )
    put(
        tmp_path / "beside", {name(stored, ".png"): encoded(), name(stored, "").replace("/", "/x-") + ".png": encoded()}
    )
    folder = next(path for path in (tmp_path / "beside").iterdir())
    (folder / unicodedata.normalize(written, "café.txt")).write_text("two")
    assert list(captions(tmp_path / "listed").values()) == ["one"]
    assert list(captions(tmp_path / "beside").values()) == ["two", None]


def test_a_picture_with_several_captions_is_a_sample_with_each(tmp_path):
    put(tmp_path, {"a.png": encoded(), "metadata.jsonl": listing(("a.png", "one"), ("a.png", "two"), ("a.png", "one"))})
    assert [picture.caption for picture in listed(tmp_path)] == ["one", "two"]


def test_what_has_a_caption_and_an_unknown_suffix_is_not_passed_over(tmp_path):
    put(
        tmp_path,
        {
            "a.png": encoded(),
            "a.txt": "one",
            "a.json": "{}",
            "b.heic": b"no picture",
            "b.txt": "two",
            "c.raw": encoded(),
            "c.txt": "three",
        },
    )
    assert captions(tmp_path) == {"a.png": "one", "b.heic": "two", "c.raw": "three"}
    found = {picture.name: picture for picture in listed(tmp_path)}
    assert found["c.raw"].open().size == (4, 3)
    with pytest.raises(Unreadable, match="not a picture"):
        found["b.heic"].open()


def test_hints_about_columns_can_be_typed(tmp_path):
    put(tmp_path / "csv", {"a.png": encoded(), "metadata.csv": "file_name,Caption\na.png,one\n"})
    put(tmp_path / "jsonl", {"a.png": encoded(), "metadata.jsonl": '{"file_name": "a.png", "Caption": "one"}'})
    for name in ("csv", "jsonl"):
        with pytest.raises(UsageError) as caught:
            listed(tmp_path / name)
        option, column = caught.value.hint.split()[-2:]
        assert option == "--text-column" and captions(tmp_path / name, text_column=column) == {"a.png": "one"}


def test_shards_group_their_members_by_name(tmp_path):
    first = {
        "x/0001.png": encoded(),
        "x/0001.txt": "one",
        "x/0002.jpg": encoded(kind="JPEG"),
        "x/0002.json": '{"text": "two", "n": 1}',
    }
    second = {"0001.seg.png": encoded(), "0001.png": encoded((5, 5)), "0001.txt": b"\xff"}
    second |= {"0002.png": encoded(), "0002.json": "{", "0003.txt": "alone"}
    shard(tmp_path / "a.tar", first)
    shard(tmp_path / "b.tar", second)
    expected = {"a.tar/x/0001.png": "one", "a.tar/x/0002.jpg": "two", "b.tar/0001.png": None, "b.tar/0002.png": None}
    expected |= {"b.tar/0001.seg.png": None, "b.tar/0003.txt": None}
    assert captions(tmp_path) == expected
    assert captions(tmp_path / "a.tar") == {
        name: caption for name, caption in expected.items() if name.startswith("a.tar")
    }
    contents = {picture.name: picture.read() for picture in listed(tmp_path) if picture.file is not None}
    assert contents["a.tar/x/0002.jpg"] == first["x/0002.jpg"] and contents["b.tar/0001.png"] == second["0001.png"]


def test_files_that_tar_wrote_once_for_several_names_are_read_under_each(tmp_path):
    for name, content in {"1.png": encoded(), "1.txt": b"red"}.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name.replace("1", "2")).hardlink_to(tmp_path / name)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("1.png", "1.txt", "2.png", "2.txt"):
            tar.add(tmp_path / name, name)
    pictures = listed(tmp_path / "a.tar")
    assert [(picture.name, picture.caption) for picture in pictures] == [("a.tar/1.png", "red"), ("a.tar/2.png", "red")]
    assert pictures[1].read() == encoded()


def test_names_in_shards_may_have_dots(tmp_path):
    files = {
        "1.txt": "one",
        "1.jpg": encoded(kind="JPEG"),
        "2.v1.jpg": encoded(kind="JPEG"),
        "2.v1.txt": "two",
        "2.v1.cls": "7",
    }
    files |= {"d.x/3.4.5.PNG": encoded(), "d.x/3.4.5.json": '{"text": "three"}', "._1.jpg": b"mac"}
    path = shard(tmp_path / "a.tar", files)
    assert captions(path) == {"a.tar/1.jpg": "one", "a.tar/2.v1.jpg": "two", "a.tar/d.x/3.4.5.png": "three"}


WORDS = st.text("ab.", min_size=1, max_size=6).filter(lambda word: not word.startswith("."))


@given(st.sets(WORDS, min_size=1, max_size=4))
def test_every_picture_of_a_shard_is_found_with_its_own_caption(tmp_path_factory, names):
    files = {f"{name}.{suffix}": encoded() if suffix == "png" else name for name in names for suffix in ("png", "txt")}
    path = shard(tmp_path_factory.mktemp("shards") / "x.tar", files)
    assert captions(path) == {f"x.tar/{name}.png": name for name in names}


def test_leftovers_of_shards_are_named_when_they_are_read(tmp_path):
    files = {
        "1.png": encoded(),
        "1.txt": "one",
        "2.heic": b"no picture",
        "2.txt": "two",
        "3.txt": "alone",
        "4.npy": b"numbers",
    }
    reasons = {}
    for picture in listed(shard(tmp_path / "a.tar", files)):
        try:
            picture.open()
        except Unreadable as error:
            reasons[picture.name] = str(error)
    assert reasons == {
        "a.tar/2.heic": "not a picture",
        "a.tar/3.txt": "there is no picture with it",
        "a.tar/4.npy": "not a picture",
    }


def test_members_of_a_shard_that_would_take_anothers_place_are_named(tmp_path):
    shard(
        tmp_path / "a.tar", {"1.PNG": encoded(), "1.png": encoded(), "1.txt": "one", "2.png": encoded(), "2.txt": "two"}
    )
    assert "a.tar: 1.PNG" in refusal(tmp_path / "a.tar") and "2.png" not in refusal(tmp_path / "a.tar")


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
    for source in ("nowhere", tmp_path / "nowhere.tar"):
        assert "there are no pictures at" in refusal(source)
    notes = tmp_path / "empty" / "notes.txt"
    assert f"{notes} is neither a folder nor a .tar shard" in refusal(notes)


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
    assert "the column caption of owner/name holds no pictures" in refusal(
        "owner/name", image_column="caption", **options
    )


def test_a_row_of_a_dataset_without_a_picture_is_unreadable(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    whole = {"bytes": encoded(), "path": None}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"image": [whole, None], "text": ["a", "b"]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda source, split: data)
    first, second = listed("owner/name")
    assert upright_size(first.read()) == (4, 3)
    with pytest.raises(Unreadable, match="there is none in this row"):
        second.read()


def test_a_turned_picture_is_turned_back():
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded((4, 3), kind="JPEG", exif=turned)
    assert upright_size(data) == (3, 4) == open_picture(data).size
    for kind in ("PNG", "TIFF"):
        data = encoded((4, 3), kind=kind, exif=turned)
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
