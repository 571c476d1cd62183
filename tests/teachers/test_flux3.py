"""FLUX.3 [klein] base through the blocks of its modular pipeline: prompts in windows, pictures, offloading, exports."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
import transformers
from euler_steps import euler
from exports import export, student
from tiny_pipeline import tokenizer
from tiny_vae import tiny_vae
from torch import Tensor, nn
from zoo import ZOO, conditioning, facts_of, states

from piflow_cli.errors import UsageError
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.exporting.verify import reading_back
from piflow_cli.sampling.denoise import sample_by_pipeline
from piflow_cli.students.adapters import save_adapter
from piflow_cli.teachers import family_of
from piflow_cli.teachers.modular import as_whole

ROW = ZOO["flux3-klein"]
FAMILY = family_of("flux3-klein", 4.0)
LAYERS, WIDTH = (4, 8, 12, 16, 20, 24, 28, 32), 3


class Layers(nn.Module):
    """A text encoder whose every layer shifts its embeddings by one; they tell token and position."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        output_hidden_states: bool,
        use_cache: bool,
    ) -> SimpleNamespace:
        hidden = (input_ids * attention_mask + position_ids).unsqueeze(-1).expand(-1, -1, WIDTH).float()
        return SimpleNamespace(hidden_states=[hidden + layer for layer in range(37)])


class Processor:
    """Letters as tokens; what it is given comes back as the chat."""

    def apply_chat_template(self, chat: list[dict], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize and add_generation_prompt and chat[0]["role"] == "user"
        return chat[0]["content"]

    def tokenizer(self, text: str, max_length: int = 10_000, padding: object = False, **options: object):
        assert padding is False or options["padding_side"] == "right"
        row = [ord(letter) for letter in text][:max_length]
        row += [0] * (max_length - len(row) if padding else 0)
        ids = torch.tensor([row])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def text_pipeline():
    made = as_whole(FAMILY.pipeline_class, diffusers.Flux3AutoBlocks().sub_blocks["text_encoder"], "prompt_embeds")
    made.register_components(text_encoder=Layers(), tokenizer=Processor())
    return made


def test_a_prompt_is_eight_layers_side_by_side_in_a_window_of_eighty() -> None:
    texts = ["ab", "c" * 80, "d" * 81, "e" * 2000]
    found = FAMILY.encode_prompts(text_pipeline(), texts)
    assert [set(text) for text in found] == [{"prompt_embeds", "prompt_embeds_mask"}] * 4
    # The network is shown the padding: all of a window counts.
    windows = [80, 80, 160, 960]
    assert [text["prompt_embeds_mask"].tolist() for text in found] == [[1] * window for window in windows]
    # Padding stands at position 1.
    expected = torch.ones(80, 1)
    expected[:2, 0] = torch.tensor([ord("a") + 0.0, ord("b") + 1.0])
    layers = torch.cat([(expected + layer).expand(-1, WIDTH) for layer in LAYERS], dim=1)
    torch.testing.assert_close(found[0]["prompt_embeds"], layers)


def test_the_text_encoder_in_a_folder_is_opened_and_read(tmp_path) -> None:
    """A tiny Qwen3-VL and its processor, as bases have them."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0]}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "num_hidden_layers": 32}
    narrow = {"hidden_size": 8, "intermediate_size": 8}
    seeing = {"depth": 1, "num_heads": 2, "out_hidden_size": 8, "num_position_embeddings": 4}
    config = transformers.Qwen3VLConfig(
        text_config={"vocab_size": 8, **narrow, **heads, "rope_parameters": rope},
        vision_config={**narrow, **seeing, "deepstack_visual_indexes": []},
    )
    transformers.Qwen3VLForConditionalGeneration(config).save_pretrained(tmp_path / "text_encoder")
    words, pictures, videos = (
        tokenizer(4096), transformers.Qwen2VLImageProcessor(), transformers.Qwen3VLVideoProcessor(),
    )  # fmt: skip
    chat = "{% for message in messages %}{{ message.content }} {% endfor %}{% if add_generation_prompt %}a{% endif %}"
    transformers.Qwen3VLProcessor(pictures, words, videos, chat_template=chat).save_pretrained(tmp_path / "tokenizer")
    pipeline = FAMILY.text_pipeline(tmp_path)
    assert pipeline.text_encoder.dtype == torch.bfloat16
    assert FAMILY.token_counts(pipeline, ["red fox", "fox " * 100]) == [4, 102]
    found = FAMILY.encode_prompts(pipeline, ["red fox", "fox " * 100])
    assert [text["prompt_embeds"].shape for text in found] == [(80, 64), (160, 64)]
    ids = words("red fox a", return_tensors="pt").input_ids
    with torch.no_grad():
        layers = pipeline.text_encoder(ids, output_hidden_states=True).hidden_states
    expected = torch.cat([layers[layer][0] for layer in LAYERS], dim=1)
    # Tokens see those before them alone; attention over the padding rounds otherwise.
    torch.testing.assert_close(found[0]["prompt_embeds"][:4], expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("guided", [True, False])
def test_a_picture_is_the_one_of_the_whole_modular_pipeline(guided: bool) -> None:
    """All of its steps but those that read prompts, put together as its users do; each text by itself."""
    blocks, vae, model, x = diffusers.Flux3AutoBlocks(), tiny_vae("flux3-klein"), ROW.build(), states()
    for name in ("prompt_upsampler", "text_encoder"):
        blocks.sub_blocks.pop(name)
    stock = blocks.init_pipeline()
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=4.0 if guided else 1.0)
    stock.register_components(transformer=model, vae=vae, scheduler=euler(2), guider=guider)
    stock.set_progress_bar_config(disable=True)
    told, windows, size = conditioning(ROW), (7, 4), {"height": 64, "width": 96}
    noise, shown = ROW.packed(stock, x), []
    for row, window in enumerate(windows):
        texts = {"prompt_embeds": told["prompt_embeds"][row : row + 1, :window]}
        texts |= {"negative_prompt_embeds": told["negative_prompt_embeds"][row : row + 1]} if guided else {}
        asked = {**texts, **size, "num_inference_steps": 2, "output_type": "pt", "output": "images"}
        shown.append(stock(**asked, latents=noise[row : row + 1]))
    told = told if guided else {name: value for name, value in told.items() if not name.startswith("negative_")}
    pipeline = FAMILY.pipeline(model, euler(2))
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        ours = FAMILY.decode_latents(vae, sample_by_pipeline(FAMILY, pipeline, x, told, 2))
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), torch.cat(shown), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["group", "model", "sequential"])
def test_an_offloaded_network_samples_as_one_that_stays(how: str) -> None:
    told, cpu, made = conditioning(ROW), torch.device("cpu"), []
    for offloaded in (False, True):
        pipeline = FAMILY.pipeline(ROW.build(), euler(2))
        pipeline.set_progress_bar_config(disable=True)
        if offloaded and how == "group":
            pipeline.enable_group_offload(cpu, offload_type="leaf_level", use_stream=False)
        elif offloaded:
            getattr(pipeline, f"enable_{how}_cpu_offload")(device=cpu)
        made.append(sample_by_pipeline(FAMILY, pipeline, states(), told, 2))
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=0)


def test_adapters_are_on_what_is_run_for_a_text() -> None:
    mode = {f"{mode}.0.ff.linear_{way}" for mode in ("mode_blocks.image", "txt_mode_blocks") for way in ("in", "out")}
    single = {f"single_transformer_blocks.{block}.ff.linear_{way}" for block in (0, 1) for way in ("in", "out")}
    time = {f"timestep_embedder.linear_{part}" for part in (1, 2)}
    assert set(FAMILY.adapter_targets(ROW.build())) == mode | single | time


def test_the_flow_map_is_no_teacher(tmp_path) -> None:
    diffusers.Flux3Transformer2DModel(**ROW.config, flow_map=True).save_pretrained(tmp_path)
    for load in (FAMILY.load, FAMILY.outline):
        with pytest.raises(UsageError, match="is a flow map, distilled in steps already: it predicts no velocity"):
            load(tmp_path)


def test_a_base_without_its_text_encoder_says_so(tmp_path) -> None:
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(UsageError, match="has no text encoder: there is no text_encoder in it"):
        FAMILY.text_pipeline(tmp_path)


def test_a_whole_pipeline_is_not_exported() -> None:
    with pytest.raises(
        UsageError, match="of the family flux3-klein is a modular one, which DiffusionPipeline"
    ) as error:
        FORMATS["pipeline"].open().check(facts_of(ROW), ExportRequest("student", "pipeline", Path("out")))
    assert error.value.hint == "choose --format merged or adapter, whose card says how it is opened"


@pytest.mark.parametrize("format", ["adapter", "merged"])
def test_the_snippet_of_a_student_runs_the_modular_pipeline(format: str, tmp_path, monkeypatch) -> None:
    """Only the text encoder and the VAE are stood in for."""
    ROW.build().save_pretrained(tmp_path / "base" / "transformer")
    (tmp_path / "base" / "modular_model_index.json").write_text("{}")
    which, scales = student("flux3-klein", tmp_path / "base"), []
    folder = tmp_path / "student"
    save_adapter(which, folder) if format == "adapter" else export(which, format, folder)
    kind = diffusers.Flux3ModularPipeline

    def load(self, names: list[str], torch_dtype: torch.dtype) -> None:
        parts = {"text_encoder": Layers(), "tokenizer": Processor(), "vae": tiny_vae("flux3-klein")}
        assert names == list(parts) and torch_dtype == torch.bfloat16
        self.register_components(**parts)

    call = kind.__call__

    def watched(self, **told: object):
        scales.append(self.guider.guidance_scale)
        assert self.transformer.dtype == torch.bfloat16 and type(self.scheduler).__name__ == "PolicyScheduler"
        return call(self, **told)

    monkeypatch.setattr(kind, "load_components", load)
    monkeypatch.setattr(kind, "__call__", watched)
    monkeypatch.chdir(tmp_path)
    with reading_back():
        exec(FORMATS[format].open().snippet(which.facts, str(folder), ", height=64, width=96"), {})
    assert len([*tmp_path.glob("*.png")]) == 1 and scales == [1.0]
