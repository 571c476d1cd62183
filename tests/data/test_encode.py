"""From prompts and pictures to batches: everything is encoded once, said out loud, and survives interruptions."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from fake_encoders import IDENTITY, LONGEST, FakeEncoders, expected_latents, expected_text, factory_of, sealed_factory
from hypothesis import given
from hypothesis import strategies as st
from picture_files import encoded, put, shard
from PIL import Image

from piflow_cli.console import Console
from piflow_cli.data import collect, encode, encode_pictures
from piflow_cli.data.buckets import fit
from piflow_cli.data.collect import EncodedCache
from piflow_cli.data.encode import open_encoded
from piflow_cli.data.encoded import EncodedData
from piflow_cli.data.sources import local_samples
from piflow_cli.errors import RunError, UsageError
from piflow_cli.presets.schema import DataSection
from piflow_cli.teachers.encoders import EncoderFactory, collate, negative_of
from piflow_cli.weights import cache

TEXTS = ["a cat", "an elephant", "a dog", "x"]


@pytest.fixture
def prompts(tmp_path) -> DataSection:
    (tmp_path / "p.txt").write_text("\n".join(TEXTS))
    return DataSection(prompts=str(tmp_path / "p.txt"), sizes=((8, 4), (4, 4)), cache=str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path) -> DataSection:
    """Four wide and two square pictures with captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        picture((12 + number, 6) if number < 4 else (6, 6), number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"caption {number}")
    return DataSection(captioned=str(folder), sizes=((8, 4), (4, 4)), cache=str(tmp_path / "cache"))


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))


def opened(
    section: DataSection, factory: EncoderFactory, *, data_free: bool = False, negative: bool = False
) -> EncodedData:
    return open_encoded(section, data_free, negative, factory, Accelerator(cpu=True), Console())


def samples(data: EncodedData, count: int = 12, size: int = 1) -> list[tuple]:
    """Shapes, texts (by their letters) and latents of the first batches."""
    batches = [data.batch(0, place, size) for place in range(count)]
    return [
        (batch.shape, batch.conditioning["embeds"].tolist(), None if batch.x_0 is None else batch.x_0.tolist())
        for batch in batches
    ]


def test_prompts_become_their_embeddings_at_every_size(prompts):
    encoders = FakeEncoders()
    data = opened(prompts, factory_of(encoders), data_free=True)
    assert sorted(encoders.texts) == sorted([*TEXTS, ""]) and (encoders.opened, encoders.closed, encoders.images) == (
        1,
        1,
        0,
    )
    seen = set()
    for place in range(8):
        batch = data.batch(0, place, 1)
        text = "".join(chr(int(code)) for code in batch.conditioning["embeds"][0, :, 0])
        expected = expected_text(text)
        assert batch.x_0 is None and batch.conditioning.keys() == expected.keys() and batch.texts == [text]
        assert all(torch.equal(batch.conditioning[name][0], expected[name]) for name in expected)
        seen.add((text, batch.shape))
    assert seen == {(text, shape) for text in TEXTS for shape in ((1, 1, 2, 4), (1, 1, 2, 2))}


def test_pictures_become_latents_of_their_bucket(pictures):
    data = opened(pictures, factory_of(encoders := FakeEncoders()))
    assert encoders.images == 6
    seen = set()
    for place in range(6):
        batch = data.batch(0, place, 1)
        caption = "".join(chr(int(code)) for code in batch.conditioning["embeds"][0, :, 0])
        assert batch.texts == [caption]
        number = int(caption.removeprefix("caption "))
        size = (8, 4) if number < 4 else (4, 4)
        expected = expected_latents(fit(Image.open(Path(pictures.captioned) / f"{number}.png"), size)[None])
        torch.testing.assert_close(batch.x_0, expected)
        assert batch.shape == tuple(expected.shape)
        seen.add(number)
    assert seen == set(range(6))


def test_latents_are_drawn_from_the_posterior_by_seed_and_place(pictures):
    """Each visit draws anew; a place draws the same again; the draws have the encoder's mean and standard deviation."""
    sure = opened(pictures, factory_of(FakeEncoders()))
    data = opened(replace(pictures, cache=f"{pictures.cache}-wide"), factory_of(FakeEncoders(std=0.5)))
    noise = []
    for place in range(600):
        mean, drawn = sure.batch(3, place, 2), data.batch(3, place, 2)
        assert all(torch.equal(mean.conditioning[name], drawn.conditioning[name]) for name in mean.conditioning)
        noise.append((drawn.x_0 - mean.x_0).flatten())
    whole = torch.cat(noise)
    assert (
        abs(whole.mean()) < 4 * 0.5 / len(whole) ** 0.5 and abs(whole.std() - 0.5) < 4 * 0.5 / (2 * len(whole)) ** 0.5
    )
    assert len({tuple(part.tolist()) for part in noise}) == 600
    assert torch.equal(data.batch(3, 7, 2).x_0, data.batch(3, 7, 2).x_0) and not torch.equal(
        noise[0], (data.batch(4, 0, 2).x_0 - sure.batch(4, 0, 2).x_0).flatten()
    )


def test_captions_without_pictures_when_data_free(pictures):
    data = opened(pictures, factory_of(encoders := FakeEncoders()), data_free=True)
    batch = data.batch(0, 0, 2)
    assert (encoders.images, batch.x_0) == (0, None) and batch.shape in ((2, 1, 2, 4), (2, 1, 2, 2))


@pytest.mark.parametrize("source", ["prompts", "pictures"])
def test_encoders_are_never_loaded_when_the_cache_is_complete(request, source, capsys):
    section = request.getfixturevalue(source)
    first = opened(section, factory_of(FakeEncoders()))
    capsys.readouterr()
    again = opened(section, sealed_factory())
    assert samples(first) == samples(again)
    assert " found in " in (said := capsys.readouterr().err) and " 0 to encode" in said


def test_only_what_is_new_is_encoded(prompts, capsys):
    opened(prompts, factory_of(FakeEncoders()))
    Path(prompts.prompts).write_text("\n".join([*TEXTS, "new", "new"]))
    opened(prompts, factory_of(encoders := FakeEncoders()))
    assert encoders.texts == ["new"]
    assert "text embeddings: 5 found in " in (said := capsys.readouterr().err) and ", 1 to encode" in said


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {**IDENTITY, "revision": "2"}},
        {"identity": {**IDENTITY, "dtype": "bfloat16"}},
        {"identity": {**IDENTITY, "length": "77"}},
    ],
)
def test_another_model_has_entries_of_its_own(prompts, change):
    opened(prompts, factory_of(FakeEncoders()))
    opened(prompts, factory_of(encoders := FakeEncoders(), **change))
    assert sorted(encoders.texts) == sorted([*TEXTS, ""])
    folders = list(Path(prompts.cache).iterdir())
    assert {json.loads((path / "identity.json").read_text())["model"] for path in folders} == {"fake"} and len(
        folders
    ) == 2


def test_data_that_would_be_trained_on_differently_have_fingerprints_of_their_own(pictures, prompts):
    square = DataSection(captioned=pictures.captioned, sizes=((4, 4),), cache=pictures.cache)
    other = {**IDENTITY, "revision": "2"}
    found = [
        opened(pictures, factory_of(FakeEncoders())).fingerprint,
        opened(pictures, factory_of(FakeEncoders(), other)).fingerprint,
        opened(pictures, factory_of(FakeEncoders()), data_free=True).fingerprint,
        opened(pictures, factory_of(FakeEncoders()), negative=True).fingerprint,
        opened(square, factory_of(FakeEncoders())).fingerprint,
        opened(prompts, factory_of(FakeEncoders())).fingerprint,
        opened(prompts, factory_of(FakeEncoders(), other)).fingerprint,
    ]
    assert len(set(found)) == len(found)
    assert opened(pictures, sealed_factory()).fingerprint == found[0]


def test_another_size_and_another_content_have_latents_of_their_own(pictures):
    opened(pictures, factory_of(FakeEncoders()))
    square = DataSection(captioned=pictures.captioned, sizes=((4, 4),), cache=pictures.cache)
    opened(square, factory_of(encoders := FakeEncoders()))
    assert (encoders.images, encoders.texts) == (4, [])
    picture((12, 6), 99).save(Path(pictures.captioned) / "0.png")
    opened(pictures, factory_of(encoders := FakeEncoders()))
    assert (encoders.images, encoders.texts) == (1, [])


def test_a_picture_under_another_name_is_the_same_picture(pictures):
    opened(pictures, factory_of(FakeEncoders()))
    folder = Path(pictures.captioned)
    for suffix in ("png", "txt"):
        (folder / f"0.{suffix}").rename(folder / f"moved.{suffix}")
    opened(pictures, sealed_factory())


@pytest.mark.parametrize("source", ["prompts", "pictures"])
def test_an_interruption_costs_only_what_was_not_done(request, source, monkeypatch):
    section = request.getfixturevalue(source)
    monkeypatch.setattr(encode, "TEXTS_AT_ONCE", 2)
    monkeypatch.setattr(encode_pictures, "PICTURES_AT_ONCE", 2)
    whole = FakeEncoders()
    expected = samples(opened(replace(section, cache=f"{section.cache}-whole"), factory_of(whole)))
    calls = len(whole.texts) // 2 + len(whole.texts) % 2 + whole.images // 2
    texts, images = [], 0
    for _ in range(calls):
        encoders = FakeEncoders(fails_at=1)
        try:
            opened(section, factory_of(encoders))
        except KeyboardInterrupt:
            assert encoders.closed == 1
        texts, images = texts + encoders.texts, images + encoders.images
    assert (sorted(texts), images) == (sorted(whole.texts), whole.images)
    assert samples(opened(section, sealed_factory())) == expected


@pytest.mark.parametrize("source", ["prompts", "pictures"])
def test_a_damaged_shard_is_made_anew_and_said(request, source, monkeypatch, capsys):
    section = request.getfixturevalue(source)
    monkeypatch.setattr(cache, "SHARD_ENTRIES", 1)
    expected = samples(opened(section, factory_of(FakeEncoders())))
    victim = sorted(Path(section.cache).rglob("*.safetensors"))[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    capsys.readouterr()
    data = opened(section, factory_of(encoders := FakeEncoders()))
    assert len(encoders.texts) + encoders.images == 1 and samples(data) == expected
    said = capsys.readouterr().err
    assert f"the cache shard {victim} was damaged" in said and "1 to encode" in said


@pytest.mark.parametrize(("source", "kind"), [("prompts", "texts"), ("pictures", "texts"), ("pictures", "latents")])
def test_an_entry_with_a_flipped_byte_is_made_anew_in_the_same_run(request, source, kind, capsys):
    section = request.getfixturevalue(source)
    first = opened(section, factory_of(FakeEncoders()))
    (shard,) = Path(section.cache).glob(f"*/{kind}/*.safetensors")
    whole = shard.read_bytes()
    # The last bytes of a file of tensors are values.
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    capsys.readouterr()
    again = opened(section, factory_of(encoders := FakeEncoders()))
    said = " ".join(capsys.readouterr().err.split())
    assert f"the cache shard {shard} was damaged; it is removed and made anew" in said
    made = sorted(encoders.texts) if kind == "texts" else encoders.images
    assert made == (
        6
        if kind == "latents"
        else sorted([*(TEXTS if source == "prompts" else [f"caption {n}" for n in range(6)]), ""])
    )
    assert (
        shard.stat().st_size == len(whole)
        and samples(again) == samples(first)
        and again.fingerprint == first.fingerprint
    )


def test_processes_share_the_check_and_all_hear_what_is_damaged(prompts, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_ENTRIES", 1)
    factory = factory_of(FakeEncoders())
    opened(prompts, factory)
    keys = [EncodedCache(prompts, factory).text_key(text) for text in (*TEXTS, "")]
    shards, found, read = sorted(Path(prompts.cache).glob("*/texts/*.safetensors")), [], []
    assert len(shards) == len(keys)
    for path in shards:
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    monkeypatch.setattr(collect, "gather_object", lambda damaged: found.extend(damaged) or list(damaged))
    for index in range(3):
        encoded_cache = EncodedCache(prompts, factory)
        encoded_cache.scan(Console())
        before = len(found)
        encoded_cache.check(keys, (), SimpleNamespace(process_index=index, num_processes=3), Console())
        read.append(len(found) - before)
    assert sorted(found) == [str(shard) for shard in shards] and max(read) < len(shards)
    assert not any(shard.exists() for shard in shards)


def test_unusable_pictures_are_named_and_counted(pictures, capsys):
    folder = Path(pictures.captioned)
    (folder / "0.txt").unlink()
    (folder / "1.txt").write_text("  ")
    (folder / "2.png").write_bytes(b"no picture")
    for name in ("4.jpg", "5.jpg"):
        picture((40, 40), 0).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:-30])
    data = opened(pictures, factory_of(FakeEncoders()))
    assert {len(bucket.samples) for bucket in data.buckets} == {1, 2}
    said = capsys.readouterr().err
    assert (
        "skipped 5 of the pictures: 2 without a caption (0.png, 1.png), 3 unreadable (2.png: not a picture, 4.jpg: "
        in said
    )
    assert "5.jpg: image file is truncated" in said
    # They are tried again, which needs no encoder.
    again = opened(pictures, sealed_factory())
    assert samples(again) == samples(data) and again.left_out == data.left_out == 5


def test_the_names_of_unusable_pictures_are_bounded(pictures, capsys):
    for number in range(100, 120):
        picture((4, 4), number).save(Path(pictures.captioned) / f"{number}.png")
    opened(pictures, factory_of(FakeEncoders()))
    assert "20 without a caption (100.png, 101.png, 102.png, 103.png, 104.png and 15 more)" in capsys.readouterr().err


def test_nothing_left_is_an_error(pictures):
    for path in Path(pictures.captioned).glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="no picture of .* can be used: 6 unreadable"):
        opened(pictures, factory_of(FakeEncoders()))


def test_a_prompt_that_says_its_size_is_trained_in_the_nearest_bucket_alone(tmp_path):
    rows = ["text,seed,width,height", "wide,1,96,48", "any,,,", "square,3,100,90"]
    (tmp_path / "p.csv").write_text("\n".join(rows))
    section = DataSection(prompts=str(tmp_path / "p.csv"), sizes=((8, 4), (4, 4)), cache=str(tmp_path / "cache"))
    data = opened(section, factory_of(FakeEncoders()), data_free=True)
    keys = {
        text: EncodedCache(section, factory_of(FakeEncoders())).text_key(text) for text in ("wide", "any", "square")
    }
    found = {bucket.shape: {sample.text for sample in bucket.samples} for bucket in data.buckets}
    assert found == {(1, 2, 4): {keys["wide"], keys["any"]}, (1, 2, 2): {keys["any"], keys["square"]}}


def test_a_size_that_is_half_said_is_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"text": "a", "width": 8, "height": 4}\n{"text": "b", "width": 8}\n')
    section = DataSection(prompts=str(tmp_path / "p.jsonl"), sizes=((8, 4), (4, 4)), cache=str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="1 of 2 prompts have a width or a height alone \\(prompt 2\\)"):
        opened(section, factory_of(FakeEncoders()), data_free=True)
    with pytest.raises(UsageError, match="prompt 2"):
        local_samples(section)


def test_texts_that_are_cut_are_named_by_every_run(prompts, capsys):
    long = ["z" * (LONGEST + 1), "y" * 300]
    Path(prompts.prompts).write_text("\n".join([*TEXTS, *long]))
    for factory in (factory_of(FakeEncoders()), sealed_factory()):
        opened(prompts, factory)
        said = capsys.readouterr().err
        assert (
            f"2 of {len(TEXTS) + 2} texts are longer than the text encoder reads" in said
            and "(101 letters)" in said
            and "(300 letters)" in said
        )
    Path(prompts.prompts).write_text("\n".join(TEXTS))
    opened(prompts, sealed_factory())
    assert "longer than" not in capsys.readouterr().err


def test_leftovers_of_a_folder_and_of_shards_are_counted_and_named(tmp_path, capsys):
    files = {"1.v2.png": encoded(), "1.v2.txt": "one", "2.txt": "alone", "3.heic": b"no picture", "3.txt": "three"}
    shard(tmp_path / "a.tar", files)
    put(tmp_path / "folder", {"1.png": encoded(), "1.txt": "one", "3.heic": b"no picture", "3.txt": "three"})
    grey = np.full((4, 4), 1000, dtype=np.int32)
    Image.fromarray(grey).save(tmp_path / "folder" / "4.tif")
    (tmp_path / "folder" / "4.txt").write_text("four")
    for source, expected in (
        (
            "a.tar",
            (
                "skipped 2 of the pictures: 2 unreadable (a.tar/2.txt: there is no picture with it, a.tar/3.heic: not a"
                " picture)"
            ),
        ),
        (
            "folder",
            (
                "skipped 2 of the pictures: 2 unreadable (3.heic: not a picture, 4.tif: 32-bit whole numbers (mode I)"
                " have no white"
            ),
        ),
    ):
        section = DataSection(captioned=str(tmp_path / source), sizes=((4, 4),), cache=str(tmp_path / "cache"))
        assert len(opened(section, factory_of(FakeEncoders())).buckets[0].samples) == 1
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("negative", [True, False])
def test_the_empty_prompt_rides_along_where_guidance_needs_it(prompts, negative):
    data = opened(prompts, factory_of(FakeEncoders()), negative=negative)
    conditioning = data.batch(0, 0, 3).conditioning
    expected = {name: torch.stack([value] * 3) for name, value in expected_text("").items()} if negative else {}
    found = negative_of(conditioning)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(value.shape[0] == 3 for value in conditioning.values())


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_work_whenever_each_looks(pictures, count):
    """One process after the other, so that each finds what the earlier ones
    wrote: nothing is left out or done twice."""
    whole = FakeEncoders()
    expected = opened(replace(pictures, cache=f"{pictures.cache}-whole"), factory_of(whole))
    texts, images = [], 0
    for index in range(count):
        process = SimpleNamespace(
            process_index=index, num_processes=count, device=torch.device("cpu"), is_main_process=index == 0
        )
        encoders = FakeEncoders()
        # Here the others do not work at the same time, and all but the last see entries missing.
        with (
            nullcontext()
            if index == count - 1
            else pytest.raises(RunError, match="that other processes were to encode")
        ):
            data = open_encoded(pictures, False, False, factory_of(encoders), process, Console())
        texts, images = texts + encoders.texts, images + encoders.images
    assert (sorted(texts), images) == (sorted(whole.texts), whole.images)
    assert data.fingerprint == expected.fingerprint and samples(data) == samples(expected)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_collating_pads_with_zeros_to_the_longest(lengths):
    generator = torch.Generator().manual_seed(0)
    entries = [
        {"embeds": torch.randn(length, 3, generator=generator), "mask": torch.ones(length, dtype=torch.bool)}
        for length in lengths
    ]
    batch = collate(entries)
    assert batch["embeds"].shape == (len(lengths), max(lengths), 3) and batch["mask"].dtype == torch.bool
    assert batch["mask"].sum(dim=1).tolist() == lengths
    for row, entry in zip(batch["embeds"], entries):
        assert torch.equal(row[: len(entry["embeds"])], entry["embeds"]) and not row[len(entry["embeds"]) :].any()
