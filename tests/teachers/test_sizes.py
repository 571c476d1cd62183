"""The sizes of a base are read from its own files, as its stock pipeline reads them."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
from tiny_pipeline import tokenizer, whole_pipeline
from tiny_vae import tiny_vae
from zoo import ZOO, Row, every_family, stock_pipeline, zoo_preset

from piflow_cli.data.collect import EncodedCache
from piflow_cli.errors import RunError
from piflow_cli.teachers import family_of


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


WAN = ("wan", "wan-ti2v", "wan-a14b")
FACTORS = {"sana": 32, "wan-ti2v": 16, "ltx": 32}  # pixels of a latent position of the published base, each way


@every_family
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_factor_is_that_of_the_stock_pipeline(row: Row, factor: int, tmp_path) -> None:
    _, preset = zoo_preset(row, tmp_path)
    vae = tiny_vae(row.family, factor)
    vae.save_pretrained(tmp_path / "base" / "vae")
    family = family_of(row.family)
    sized = family.sized_by(tmp_path / "base")
    pipeline = stock_pipeline(family.pipeline_class, vae=vae)
    # The pipeline of ERNIE-Image counts cells, two latent positions wide.
    cells = 2 if row.family == "ernie-image" else 1
    assert sized.vae_factor == factor
    spatial = dict.fromkeys((*WAN, "kandinsky6"), "vae_scale_factor_spatial")
    stated = {"ltx": "vae_spatial_compression_ratio", **spatial}
    assert cells * factor == getattr(pipeline, stated.get(row.family, "vae_scale_factor"))
    # The pipelines of Sana, LTX-Video and Wan take multiples of 32 and 16 alone.
    multiple = max({"sana": 32, "ltx": 32, **dict.fromkeys(WAN, 16)}.get(row.family, 0), 2 * factor)
    assert (family.vae_factor, sized.size_multiple, sized.name) == (FACTORS.get(row.family, 8), multiple, row.family)
    factory = family.encoders(preset.teacher)
    assert (factory.downsampling, factory.size_multiple) == (factor, multiple)
    latent_frames = (3,) if row.makes_videos else ()
    assert factory.latent_shape(48, 32, row.frames) == (4, *latent_frames, 32 // factor, 48 // factor)


LENGTHS = {
    "ltx": 128, "kandinsky6": 1024, "ovis-image": 256, "ernie-image": 1024, "flux3-klein": 960, "sd3": 256,
    "sana": 300, "sd15": 77, "sdxl": 77,
}  # fmt: skip


@every_family
def test_a_base_without_a_vae_has_the_published_sizes(row: Row, tmp_path) -> None:
    zoo_preset(row, tmp_path)
    for folder in (tmp_path / "base", tmp_path / "base" / row.component):
        sized = family_of(row.family).sized_by(folder)
        assert (sized.vae_factor, sized.text_length) == (FACTORS.get(row.family, 8), LENGTHS.get(row.family, 512))


@pytest.mark.parametrize("name", ["flux", "flux-cfg"])
@pytest.mark.parametrize(("limit", "read"), [(12, 12), (512, 512), (1000, 512), (None, 512), (10**30, 512)])
def test_texts_of_flux_are_as_long_as_t5_reads_at_most(name: str, limit: int | None, read: int, tmp_path) -> None:
    tokenizer(12).save_pretrained(tmp_path / "tokenizer")
    written(
        tmp_path / "tokenizer_2" / "tokenizer_config.json",
        json.dumps({} if limit is None else {"model_max_length": limit}),
    )
    assert family_of(name).sized_by(tmp_path).text_length == read


def test_a_family_of_chats_takes_no_limit_from_its_tokenizer(tmp_path) -> None:
    tokenizer(12).save_pretrained(tmp_path / "tokenizer")
    assert family_of("qwen-image").sized_by(tmp_path).text_length == 512


def test_the_length_of_texts_is_part_of_the_key_of_the_cache(tmp_path) -> None:
    keys = set()
    for words in (12, 512):
        folder = tmp_path / "base"
        whole_pipeline(folder, words=words)
        _, preset = zoo_preset(ZOO["flux"], tmp_path, data__resolution=64)
        section = preset.data
        keys.add(EncodedCache(section, family_of("flux").encoders(preset.teacher)).text_key("a red fox"))
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("vae/config.json", '{"_class_name": "AutoencoderKL", "block_out_channels": 4}', "block_out_channels is 4"),
        ("vae/config.json", '{"_class_name": "AutoencoderKL", "block_out_channels": []}', "block_out_channels is []"),
        ("vae/config.json", '{"_class_name": ', "no JSON object"),
        ("vae/config.json", "[1, 2]", "no JSON object"),
        ("tokenizer_2/tokenizer_config.json", '{"model_max_length": "many"}', "model_max_length is 'many'"),
        ("tokenizer_2/tokenizer_config.json", '{"model_max_length": 0}', "model_max_length is 0"),
        ("tokenizer_2/tokenizer_config.json", "\x00", "no JSON object"),
    ],
)
def test_a_damaged_config_is_one_line(file: str, text: str, told: str, tmp_path) -> None:
    written(tmp_path / file, text)
    with pytest.raises(RunError) as caught:
        family_of("flux").sized_by(tmp_path)
    assert str(tmp_path / file) in caught.value.message and told in caught.value.message
    assert "--base PATH" in caught.value.hint


def test_a_pipeline_without_a_vae_is_called_by_its_own_factor(tmp_path) -> None:
    pipeline = whole_pipeline(tmp_path, factor=4)
    bare = family_of("flux").pipeline(pipeline.transformer, diffusers.FlowMatchEulerDiscreteScheduler())
    assert (pipeline.vae_scale_factor, bare.vae_scale_factor) == (4, 8)
