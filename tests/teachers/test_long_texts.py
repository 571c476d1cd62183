"""Texts longer than an encoder reads: every family's tokens counted as its stock
pipeline makes them, and one line about them."""

from __future__ import annotations

from inspect import signature
from types import SimpleNamespace

import diffusers
import pytest
import torch
from tiny_pipeline import tokenizer
from torch import Tensor, nn
from zoo import MASKED, ZOO

from piflow_cli.teachers import family_of
from piflow_cli.teachers.long_texts import hushed, length_note, told_of
from piflow_cli.teachers.modular import as_whole
from piflow_cli.teachers.stock_encoders import StockEncoders

PAD = 0
# Texts of flux-cfg are those of flux. U-Nets read 77 tokens of CLIP.
every_counted_family = pytest.mark.parametrize(
    "name", [name for name in ZOO if name not in ("flux-cfg", "sd15", "sdxl")]
)
CHAT = (
    "{% for message in messages %}<s> {{ message.role }} {{ message.content if message.content is string else"
    " message.content[0].text }} {% endfor %}{% if add_generation_prompt %}a{% endif %}"
)


class Recorder(nn.Module):
    """A text encoder that remembers how many tokens of each text it was given."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, pools: bool = False) -> None:
        super().__init__()
        self.given: list[int] = []
        self.pools = pools

    def forward(self, input_ids: Tensor, attention_mask: object = None, **options: object) -> SimpleNamespace:
        self.given += (input_ids != PAD).sum(dim=1).tolist()
        hidden = input_ids.unsqueeze(-1).float()
        first = hidden[:, 0] if self.pools else hidden
        return Hidden(hidden_states=[hidden] * 40, last_hidden_state=hidden, pooler_output=hidden[:, 0], first=first)


class Hidden(SimpleNamespace):
    def __getitem__(self, index: int | str) -> object:
        return getattr(self, index) if isinstance(index, str) else self.first


def chat_tokenizer():
    found = tokenizer(100_000)
    found.chat_template = CHAT
    return found


def pixtral():
    """What FLUX.2 [dev] calls its tokenizer."""
    transformers = pytest.importorskip("transformers")
    processor = transformers.PixtralProcessor(
        transformers.PixtralImageProcessor(),
        chat_tokenizer(),
        image_token="cat",
        image_break_token="cat",
        image_end_token="cat",
    )
    processor.chat_template = CHAT
    return processor


def pipeline_of(name: str, encoder: Recorder):
    kind = getattr(diffusers, family_of(name).pipeline_name)
    if name == "flux":
        return kind(None, None, Recorder(), tokenizer(16), encoder, tokenizer(512), None)
    if name == "sd3":
        clips = (Recorder(pools=True), tokenizer(16)) * 2
        return kind(None, None, None, *clips, encoder, tokenizer(512))
    used = pixtral() if name == "flux2" else chat_tokenizer()
    if name == "flux3-klein":
        # A processor holds its tokenizer.
        used.tokenizer = used
        made = as_whole(kind, diffusers.Flux3AutoBlocks().sub_blocks["text_encoder"], "prompt_embeds")
        made.register_components(text_encoder=encoder, tokenizer=used)
        return made
    parts = dict.fromkeys(kind._get_signature_keys(kind)[0])
    if name == "kandinsky6":
        parts |= {"text_encoder_2": Recorder(pools=True), "tokenizer_2": tokenizer(77)}
    made = kind(**{**parts, "text_encoder": encoder, "tokenizer": used})
    if name == "krea2":
        made.prompt_template_encode_num_suffix_tokens = len(used(made.prompt_template_encode_suffix).input_ids)
    return made


@every_counted_family
def test_tokens_are_counted_as_the_stock_pipeline_makes_them(name: str, capsys, caplog) -> None:
    encoder = Recorder()
    encoders = StockEncoders(family_of(name), None, torch.device("cpu"), False)
    encoders._pipeline = pipeline_of(name, encoder)
    most = family_of(name).text_length
    texts = ["a red fox", "fox " * 40, "fox " * (most + 200)]
    with hushed():
        counts = family_of(name).token_counts(encoders._pipeline, texts)
    encoded = encoders.encode_text(texts)
    stock = encoders._pipeline
    template = getattr(stock, "prompt_template_encode_start_idx", getattr(stock, "user_prompt_begin_id", 0))
    if name == "longcat-image":
        around = (stock.prompt_template_encode_prefix, stock.prompt_template_encode_suffix)
        template = sum(len(tokens) for tokens in stock.tokenizer(list(around), add_special_tokens=False).input_ids)
    if name == "kandinsky6":
        # By number, whatever the tokenizer makes of it.
        template = 129
    if name == "sana":
        instruction = signature(stock.__call__).parameters["complex_human_instruction"].default
        template = len(stock.tokenizer.encode("\n".join(instruction))) - 2
    assert [given - template for given in encoder.given[:2]] == counts[:2]
    assert counts[1] - counts[0] == 37 and counts[2] - counts[1] == most + 160
    if name in MASKED:
        # Chroma's network is shown one token of padding, that of FLUX.3 all up to a multiple of 80.
        window = 80 if name == "flux3-klein" else 1
        shown = [-(-(count + (name == "chroma")) // window) * window for count in counts[:2]]
        assert [len(text["prompt_embeds"]) for text in encoded] == [*shown, most]
    assert encoders.long_texts(texts) == {texts[2]: f"{counts[2]:,} tokens, of which {most:,} are read"}
    captured = capsys.readouterr()
    said = captured.out + captured.err + caplog.text
    assert "truncated" not in said and "sequence length" not in said


@every_counted_family
def test_the_longest_text_that_is_read_whole_is_no_long_one(name: str) -> None:
    encoders = StockEncoders(family_of(name), None, torch.device("cpu"), False)
    encoders._pipeline = pipeline_of(name, Recorder())
    family = family_of(name)
    room = family.text_length - family.token_counts(encoders._pipeline, [""])[0]
    assert encoders.long_texts(["fox " * room]) == {}
    assert set(encoders.long_texts(["fox " * (room + 1)])) == {"fox " * (room + 1)}


def test_the_line_counts_all_and_names_some() -> None:
    notes = {f"{number} {'long ' * 20}": length_note(901, 512) for number in range(5)}
    line = told_of(notes, 7)
    assert line.startswith("5 of 7 texts are longer than the text encoder reads")
    assert line.count("(901 tokens, of which 512 are read)") == 3 and line.endswith(" and 2 more") and "\n" not in line
    assert length_note(512, 512) is None
