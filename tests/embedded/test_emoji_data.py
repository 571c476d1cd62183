"""Data of the emoji teacher: captions, pictures, tokenizers."""

from __future__ import annotations

import io
import json
import re
import tarfile

import numpy as np
import pytest
import torch
from emoji_data import CAPTIONS, SKIN_TONES_IN_WORDS, entry, picture_file
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.embedded.emoji.captions import WORDINGS, captioned, plain, skin_words, wordings
from piflow_cli.embedded.emoji.data import (
    SIDE,
    load_captions,
    load_pictures,
    load_shares,
    make_data,
    to_unit,
    write_data,
)
from piflow_cli.embedded.emoji.tokenizers import LENGTH, load_tokenizers, token_ids, write_tokenizers


@pytest.mark.parametrize("tones, words", SKIN_TONES_IN_WORDS)
def test_skin_tones_have_words(tones, words):
    assert skin_words(tones) == words


def test_flags_are_flags_of_their_countries():
    names = wordings(entry("Côte d’Ivoire Flag", "flag-ci", category="Flags", subcategory="country-flag"), "")
    assert names[:2] == ("flag of cote d'ivoire", "cote d'ivoire flag")


def test_every_wording_of_a_variation_names_its_skin_tone():
    names = wordings(entry("WAVING HAND SIGN", "wave"), "dark skin tone")
    assert names[0] == "waving hand sign, dark skin tone" and names[1] == "wave, dark skin tone"
    assert len(names) == WORDINGS and all("dark skin tone" in name for name in names)


def test_short_names_that_are_codes_are_not_captions():
    assert wordings(entry("SQUARED CJK UNIFIED IDEOGRAPH-7533", "u7533"), "")[1] == "squared ideograph 7533"


@given(st.text())
def test_plain_text_is_lower_case_ascii_and_stays_as_it_is(text):
    once = plain(text)
    assert once.isascii() and once == once.lower() and "  " not in once
    assert plain(once) == once


def test_pictures_come_in_order_each_base_before_its_skin_tones():
    hand = entry("HAND", "hand", image="a.png")
    hand["skin_variations"] = {
        "1F3FB": {"image": "b.png", "has_img_google": True},
        "1F3FC": {"image": "c.png", "has_img_google": False},
    }
    found = captioned([hand, entry("NOT THERE", "no", has_img_google=False), entry("FOOT", "foot", image="d.png")])
    assert [one.image for one in found] == ["a.png", "b.png", "d.png"]
    assert [one.captions[0] for one in found] == ["hand", "hand, light skin tone", "foot"]


@pytest.fixture
def package(tmp_path):
    """An archive as npm packs it: a red picture, opaque in its upper half, and one of another set."""
    content = {
        "emoji.json": json.dumps([entry("RED", "red", image="red.png")]).encode(),
        "img/google/64/red.png": picture_file((255, 0, 0)),
        "img/apple/64/red.png": b"",
    }
    place = tmp_path / "package.tgz"
    with tarfile.open(place, "w:gz") as file:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return place


def test_a_package_becomes_pictures_on_white_with_captions(package, tmp_path):
    make_data(tmp_path / "data", package)
    (picture,) = load_pictures(tmp_path / "data")
    assert torch.equal(picture[:, 0, 0], torch.tensor([255, 0, 0], dtype=torch.uint8))
    assert torch.equal(picture[:, -1, -1], torch.tensor([255, 255, 255], dtype=torch.uint8))
    assert load_captions(tmp_path / "data")[0][0] == "red"


def test_pictures_come_back_as_they_were_written(tmp_path):
    emoji = captioned([entry(f"THING {number}", "thing", image=f"{number}.png") for number in range(70)])
    pictures = np.random.default_rng(0).integers(0, 256, (70, SIDE, SIDE, 3), np.uint8)
    write_data(tmp_path / "data", emoji, pictures)
    loaded = load_pictures(tmp_path / "data")
    assert torch.equal(loaded, torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert [len(captions) for captions in load_captions(tmp_path / "data")] == [WORDINGS] * 70
    assert to_unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    write_tokenizers(CAPTIONS, folder)
    return folder


def test_tokenizers_ignore_case_and_spell_strange_words(tokenizers):
    for tokenizer in load_tokenizers(tokenizers):
        assert tokenizer.model_max_length == LENGTH
        (lower, upper), (strange,) = (
            token_ids(tokenizer, ["red square", "Red Square"]),
            token_ids(tokenizer, ["qwx 7?"]),
        )
        assert torch.equal(lower, upper) and lower.shape == (LENGTH,)
        text = tokenizer.decode(strange, skip_special_tokens=True)
        assert re.sub(r"\s", "", text) == "qwx7?"


def test_t5_has_words_as_tokens_and_the_ids_of_t5(tokenizers):
    _, t5 = load_tokenizers(tokenizers)
    assert [t5.pad_token_id, t5.eos_token_id, t5.unk_token_id] == [0, 1, 2]
    assert t5.tokenize("an emoji of red square, shapes") == ["▁an", "▁emoji", "▁of", "▁red", "▁square", ",", "▁shapes"]
    ids = token_ids(t5, ["red", ""])
    assert ids[0, 1] == 1 and not ids[0, 2:].any() and ids[1, 0] == 1 and not ids[1, 1:].any()


def test_clip_ends_with_its_marks_and_pads_with_the_end(tokenizers):
    clip, _ = load_tokenizers(tokenizers)
    assert [clip.bos_token_id, clip.eos_token_id] == [len(clip) - 2, len(clip) - 1]
    ids = token_ids(clip, [""])[0]
    assert ids[0] == clip.bos_token_id and (ids[1:] == clip.eos_token_id).all()


def test_older_releases_of_transformers_find_what_they_read(tokenizers):
    assert json.loads((tokenizers / "tokenizer_2" / "tokenizer_config.json").read_text())["tokenizer_class"] == (
        "PreTrainedTokenizerFast"
    )
    clip, _ = load_tokenizers(tokenizers)
    assert json.loads((tokenizers / "tokenizer" / "vocab.json").read_text()) == clip.get_vocab()
    first, *merges = (tokenizers / "tokenizer" / "merges.txt").read_text().splitlines()
    assert first.startswith("#version") and all(merge.count(" ") == 1 for merge in merges)


def test_every_name_is_drawn_equally_often_whatever_its_skin_tones(tmp_path):
    hand = entry("HAND", "hand", image="270c-fe0f.png")
    hand["skin_variations"] = {
        tone: {"image": f"270c-{tone.lower()}.png", "has_img_google": True}
        for tone in ("1F3FB", "1F3FC", "1F3FB-1F3FC")
    }
    emoji = captioned([hand, entry("FOOT", "foot", image="1f9b6.png")])
    write_data(tmp_path / "data", emoji, np.zeros((len(emoji), SIDE, SIDE, 3), np.uint8))
    assert load_shares(tmp_path / "data").tolist() == pytest.approx([1 / 8] * 4 + [1 / 2])
