"""Qwen-Image-Edit: a text encoder that sees the picture, and networks that know its tokens to be without noise."""

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from edit_data import PICTURE, SIZE
from euler_steps import euler
from PIL import Image
from tiny_pipeline import tokenizer
from tiny_vae import tiny_vae
from zoo import EDITS, QWEN, RAW, WIDTH, Row, conditioning, disturb, states, student_of

from piflow_cli.core.guidance import Guidance, Renormalisation
from piflow_cli.data.buckets import fit
from piflow_cli.sampling.denoise import sample_teacher
from piflow_cli.teachers import family_of
from piflow_cli.teachers.encoders import REFERENCE, collate, with_negative
from piflow_cli.teachers.stock_encoders import StockEncoders

ROW = EDITS["qwen-image-edit"]
FAMILY = family_of("qwen-image-edit", 4.0)
MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def seeing() -> DiffusionPipeline:
    """The stock pipeline with a tiny text encoder that sees."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = tokenizer(4096)
    words.add_special_tokens({"additional_special_tokens": list(MARKS)})
    ids = {name: words.convert_tokens_to_ids(mark) for name, mark in zip(MARKS, MARKS)}
    config = transformers.Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(words), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        ),
        vision_config=dict(
            depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=WIDTH,
            fullatt_block_indexes=[0],
        ),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    encoder = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(), words, transformers.Qwen2VLVideoProcessor()
    )
    parts = dict(scheduler=euler(2), vae=tiny_vae(ROW.family), text_encoder=encoder, tokenizer=words)
    made = diffusers.QwenImageEditPlusPipeline(**parts, processor=processor, transformer=ROW.build())
    made.set_progress_bar_config(disable=True)
    return made


def encoders_of(pipeline: DiffusionPipeline) -> StockEncoders:
    encoders = StockEncoders(FAMILY, None, torch.device("cpu"), False)
    encoders._pipeline = pipeline
    return encoders


@pytest.mark.usefixtures("small_references")
def test_text_and_picture_are_encoded_as_the_stock_pipeline_does() -> None:
    stock = seeing()
    x, texts = states(batch=1), ("a red fox", "")
    told, negative = (collate([entry]) for entry in encoders_of(stock).encode_text(texts, [PICTURE] * 2))
    told = with_negative(told, negative)
    with torch.no_grad():
        told[REFERENCE], _ = FAMILY.encode_images(stock.vae, fit(PICTURE, FAMILY.reference_size(SIZE))[None])
    theirs = stock(
        image=PICTURE,
        prompt=texts[0],
        negative_prompt=texts[1],
        true_cfg_scale=4.0,
        num_inference_steps=2,
        height=SIZE[1],
        width=SIZE[0],
        latents=FAMILY.to_pipeline(x),
        output_type="latent",
    ).images
    guidance = Guidance(4.0, renormalised=Renormalisation(2, float("inf")))
    ours = sample_teacher(FAMILY, stock.transformer, x, told, 2, 2.0, guidance)
    torch.testing.assert_close(ours, FAMILY.from_pipeline(theirs, *x.shape[-2:]), rtol=1e-4, atol=1e-4)


def test_the_text_depends_on_the_picture_and_its_tokens_count() -> None:
    encoders = encoders_of(seeing())
    (one,), (other,) = (
        encoders.encode_text(["a red fox"], [Image.new("RGB", SIZE, colour)]) for colour in ("red", "blue")
    )
    assert (one["prompt_embeds"] - other["prompt_embeds"]).abs().max() > 1e-3
    texts = ["a red fox", "fox " * 1200]
    (count, more) = FAMILY.token_counts(encoders._pipeline, texts, [PICTURE] * 2)
    assert count == len(one["prompt_embeds"]) > 14 * 14 - 30 and more - count == 1197
    assert list(encoders.long_texts(texts, [PICTURE] * 2)) == texts[1:]
    (cut,) = encoders.encode_text(texts[1:], [PICTURE])
    assert len(cut["prompt_embeds"]) == FAMILY.text_length


def test_references_cover_the_area_of_the_stock_pipeline() -> None:
    assert FAMILY.reference_size((64, 64)) == (1024, 1024) and FAMILY.reference_size((1408, 704)) == (1440, 736)
    longest = FAMILY.longest_reference((4, 8, 8))[REFERENCE]
    assert longest.shape == (1, 4, 128, 128)


def test_a_reference_without_noise_is_a_matter_of_the_config() -> None:
    """2511 embeds two times for each sample, 2509 one; the head is handed what belongs to its samples."""
    older = Row(ROW.family, ROW.model_name, QWEN, 4.0, "plain", ROW.encode, ROW.unguided)
    x, told = states(), conditioning(ROW)
    found = {}
    for row in (ROW, older):
        student = student_of(row, row.build())
        disturb(student)
        seen: list[torch.Size] = []
        student.model.base.norm_out.register_forward_pre_hook(
            lambda module, given, seen=seen: seen.append(given[1].shape)
        )
        found[row.config.get("zero_cond_t")] = student.family.call(student.model, x, RAW, told)
        assert seen == [torch.Size([2, WIDTH])]
    assert (found[True] - found[None]).abs().max() > 1e-3
