"""FLUX.2: editing through the stock pipelines, prompts, adapters of the published layout,
and bases that are told a guidance or not."""

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from euler_steps import euler_at
from helpers import seeded
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_vae import tiny_vae
from torch import Tensor, nn
from zoo import ZOO, certain, conditioning, disturb, states, student_of, zoo_preset

from piflow_cli.errors import UsageError
from piflow_cli.sampling.denoise import sample_student
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.open import find_student, open_student
from piflow_cli.teachers import family_of

FAMILIES = ["flux2", "flux2-klein"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def reference() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))


def edited(name: str, model: nn.Module, scheduler, **picture: object) -> Tensor:
    """What the stock pipeline of the family makes of noise, a text and pictures, unguided, in two steps."""
    row, kind = ZOO[name], getattr(diffusers, family_of(name).pipeline_name)
    pipeline = kind(scheduler=scheduler, vae=tiny_vae(name), text_encoder=None, tokenizer=None, transformer=model)
    pipeline.set_progress_bar_config(disable=True)
    text, noise = {"prompt_embeds": conditioning(row)["prompt_embeds"]}, pipeline._patchify_latents(states())
    size = {"height": 64, "width": 96, "num_inference_steps": 2, "output_type": "latent"}
    return pipeline(**text, **row.unguided, **picture, latents=noise, **size).images


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_a_new_student_edits_a_picture_as_its_teacher_does(name: str, policy: str, monkeypatch) -> None:
    student = certain(ZOO[name], policy, monkeypatch)
    scheduler = student.scheduler(patch=student.family.token_positions)
    scheduler.set_timesteps(2)
    found = edited(name, student.model.base, scheduler, image=reference())
    expected = edited(name, ZOO[name].build(), euler_at(scheduler.sigmas[:-1].tolist()), image=reference())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, edited(name, student.model.base, scheduler), atol=1e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_base_told_a_guidance_is_no_base_of_the_other_family(name: str, tmp_path) -> None:
    other = next(other for other in FAMILIES if other != name)
    ZOO[other].build().save_pretrained(tmp_path)
    takes = "takes the guidance scale as an input" if other == "flux2" else "takes no guidance scale"
    with pytest.raises(UsageError, match=f"{takes}, unlike those of the family {name}"):
        family_of(name).load(tmp_path)


def test_an_adapter_of_the_published_layout_loads_as_a_student_of_the_dev_preset(tmp_path) -> None:
    """`GMFlux2Transformer2DModel`, weights under `transformer.`, and nothing that says how it was trained."""
    row = ZOO["flux2"]
    zoo_preset(row, tmp_path)
    student = student_of(row, row.build())
    disturb(student)
    save_adapter(student, folder := tmp_path / "gmflux2_k8_piid_4step")
    path = folder / WEIGHTS
    tensors = load_file(path)
    save_file(
        {f"transformer.{name}": value for name, value in tensors.items()}, path, {"policy_config": '{"type": "GMFlow"}'}
    )
    assert tensors["proj_out_means.bias"].shape == (3 * 16,) and tensors["proj_out_logweights.weight"].shape == (
        3 * 4,
        32,
    )
    assert "norm_out.linear.weight" in tensors and "norm_out.linear.bias" not in tensors
    said: list[str] = []
    again = open_student(folder, base=str(tmp_path / "base"), say=said.append)
    assert said == ["the student does not say how it was trained: the values of the preset flux2-dev hold"]
    assert (again.facts.family, again.facts.guidance, again.facts.nfe, again.facts.shift) == ("flux2", 4.0, 4, 3.2)
    options = {"steps": 2, "temperature": 0.5, "substeps": 16}
    found, expected = (sample_student(one, states(), conditioning(row), **options) for one in (again, student))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_a_base_that_is_told_no_guidance_is_one_of_klein(tmp_path) -> None:
    row = ZOO["flux2-klein"]
    save_adapter(student_of(row, row.build()), folder := tmp_path / "adapter")
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"policy_config": '{"type": "GMFlow"}'})
    facts = find_student(folder).facts
    assert (facts.teacher, facts.family) == ("flux2-klein", "flux2-klein")


def test_adapters_are_on_feed_forward_layers_and_the_timestep_embedder() -> None:
    """The layers that LakonLab's FLUX.2 configurations adapt."""
    own = {f"transformer_blocks.0.{part}.linear_{way}" for part in ("ff", "ff_context") for way in ("in", "out")}
    single = {f"single_transformer_blocks.{block}.attn.to_out" for block in (0, 1)}
    time = {f"time_guidance_embed.timestep_embedder.linear_{part}" for part in (1, 2)}
    for name in FAMILIES:
        assert set(family_of(name).adapter_targets(ZOO[name].build())) == own | single | time


def test_a_dx_head_has_a_bias_only_if_the_projection_has_one(tmp_path) -> None:
    """So that the plain class loads it: its wider projection has none either."""
    student = student_of(ZOO["flux2"], ZOO["flux2"].build(), "dx")
    save_adapter(student, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    assert {name for name in tensors if name.startswith("proj_out")} == {"proj_out.weight"}
    wide = diffusers.Flux2Transformer2DModel(**ZOO["flux2"].config, out_channels=48)
    assert wide.proj_out.weight.shape == tensors["proj_out.weight"].shape


class Layers(nn.Module):
    """A text encoder whose every layer shifts its embeddings by one, so that a test sees which layers are read."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool, use_cache: bool
    ) -> SimpleNamespace:
        hidden = (input_ids * attention_mask).unsqueeze(-1).expand(-1, -1, 3).float()
        return SimpleNamespace(hidden_states=[hidden + layer for layer in range(40)])


class ChatTokenizer:
    """Letters as tokens, padded to the length asked for."""

    def apply_chat_template(self, messages: list, tokenize: bool, max_length: int = 0, **options: object):
        if not tokenize:
            return messages[0]["content"]
        return self([chat[-1]["content"][0]["text"] for chat in messages], max_length=max_length)

    def __call__(self, texts: str | list[str], max_length: int, **options: object) -> dict[str, Tensor]:
        rows = [[ord(letter) for letter in text] for text in ([texts] if isinstance(texts, str) else texts)]
        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.mark.parametrize(("name", "layers"), [("flux2", (10, 20, 30)), ("flux2-klein", (9, 18, 27))])
def test_a_prompt_is_three_layers_side_by_side_padded_to_one_length(name: str, layers: tuple[int, ...]) -> None:
    family = family_of(name)
    kind = getattr(diffusers, family.pipeline_name)
    pipeline = kind(scheduler=None, vae=None, text_encoder=Layers(), tokenizer=ChatTokenizer(), transformer=None)
    found = family.encode_prompts(pipeline, ["ab", ""])
    assert [set(text) for text in found] == [{"prompt_embeds"}] * 2
    expected = torch.zeros(512, 1)
    expected[0], expected[1] = ord("a"), ord("b")
    torch.testing.assert_close(
        found[0]["prompt_embeds"], torch.cat([(expected + layer).expand(-1, 3) for layer in layers], dim=1)
    )
    assert found[1]["prompt_embeds"].shape == (512, 9)


def test_latents_are_normalised_after_they_are_packed() -> None:
    """Against the stock pipeline's own encoding of a picture."""
    vae, images = tiny_vae("flux2"), torch.rand(2, 3, 32, 48, generator=seeded()) * 2 - 1
    pipeline = diffusers.Flux2Pipeline(scheduler=None, vae=vae, text_encoder=None, tokenizer=None, transformer=None)
    with torch.no_grad():
        found, _ = family_of("flux2").encode_images(vae, images)
        torch.testing.assert_close(pipeline._patchify_latents(found), pipeline._encode_vae_image(images, None))
