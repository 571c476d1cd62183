"""Texts of Wan, and bases of its class that are something else than one network told a text."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from tiny_pipeline import tokenizer
from transformers import UMT5Config, UMT5EncoderModel
from zoo import ZOO, conditioning, states

from piflow_cli.errors import UsageError
from piflow_cli.teachers import family_of

FAMILY, ROW = family_of("wan"), ZOO["wan"]


def pipeline() -> diffusers.WanPipeline:
    """The stock pipeline with its text encoder alone, tiny."""
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=8, d_model=6, d_kv=3, d_ff=8, num_layers=1, num_heads=2)
    return diffusers.WanPipeline(tokenizer(512), UMT5EncoderModel(config).eval(), None, None)


def test_a_text_is_what_umt5_makes_of_it_and_zeros() -> None:
    made = pipeline()
    with torch.no_grad():
        found = FAMILY.encode_prompts(made, ["a red  fox", ""])
        ids = made.tokenizer("a red fox", return_tensors="pt").input_ids
        whole = made.text_encoder(ids)[0][0]
    # Three words and an end, or the end alone; the pipeline's own call takes 512 tokens.
    assert [text["prompt_embeds"].shape for text in found] == [(512, 6)] * 2
    torch.testing.assert_close(found[0]["prompt_embeds"][:4], whole, rtol=1e-4, atol=1e-5)
    for text, length in zip(found, (4, 1), strict=True):
        assert text["prompt_embeds"][length - 1].any() and not text["prompt_embeds"][length:].any()
    assert FAMILY.token_counts(made, ["a red  fox", ""]) == [4, 1]


def test_times_are_told_in_full_precision() -> None:
    """Two times that bfloat16 does not tell apart."""
    model, x, given = ROW.build().bfloat16(), states(ROW).bfloat16(), conditioning(ROW)
    model.condition_embedder.time_embedder.float()
    given = {name: value.bfloat16() for name, value in given.items()}
    times = torch.full((2,), 0.5), torch.full((2,), 0.5004)
    one, other = (FAMILY.call(model, x, sigma, given) for sigma in times)
    assert times[0].bfloat16().equal(times[1].bfloat16()) and not one.equal(other)


@pytest.mark.parametrize(
    ("changes", "index", "message"),
    [
        ({"in_channels": 9}, {}, "is told a picture, and the family wan is of texts alone"),
        ({"image_dim": 8}, {}, "is told a picture, and the family wan is of texts alone"),
        ({}, {"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "holds two networks"),
    ],
)
def test_other_networks_of_the_class_are_refused(tmp_path: Path, changes: dict, index: dict, message: str) -> None:
    (tmp_path / "transformer").mkdir()
    config = {"_class_name": ROW.model_name, **ROW.config, **changes}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text(json.dumps({"transformer_2": [None, None], **index}))
    with pytest.raises(UsageError, match=message):
        FAMILY.outline(tmp_path)
