"""Text-to-image families against the stock pipelines: packing, time, sign, prompts and latents."""

from types import SimpleNamespace
from weakref import ref

import diffusers
import pytest
import torch
from diffusers.hooks import group_offloading
from euler_steps import euler, euler_at
from helpers import seeded
from tiny_vae import tiny_vae
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from zoo import (
    LATENTS,
    RAW,
    ZOO,
    Row,
    certain,
    conditioning,
    disturb,
    every_family,
    every_masked_family,
    states,
    student_of,
    zoo_preset,
)

from piflow_cli.core.guidance import Guidance
from piflow_cli.errors import UsageError
from piflow_cli.presets.resolve import resolve
from piflow_cli.sampling.denoise import sample_student, sample_teacher
from piflow_cli.students.shared_base import root
from piflow_cli.teachers import family_of
from piflow_cli.teachers.base import guidance_of, repeat, teacher_velocity
from piflow_cli.teachers.decoders import decode_each
from piflow_cli.teachers.encoders import negative_of
from piflow_cli.teachers.packing import pack, unpack
from piflow_cli.teachers.stock_encoders import StockEncoders

FLOW = {name: row for name, row in ZOO.items() if family_of(name).parameterisation.flow}


def by_pipeline(row: Row, model: nn.Module, scheduler, x: Tensor, steps: int) -> Tensor:
    """Final latents (B, C, *S) that the stock pipeline of the family makes of the noise ``x``, without guidance."""
    family, given = family_of(row.family), conditioning(row)
    pipeline = family.pipeline(model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    height, width = (row.factor * side for side in row.latents[-2:])
    prompts = {name: value for name, value in given.items() if not name.startswith("negative_")}
    if row.prompt_lists:
        lengths = prompts.pop("prompt_embeds_mask").sum(1).tolist()
        prompts["prompt_embeds"] = [text[:length] for text, length in zip(prompts["prompt_embeds"], lengths)]
    options = {"height": height, "width": width, "num_inference_steps": steps, "output_type": "latent"}
    if row.makes_videos:
        options["num_frames"] = row.frames
    if family.one_at_a_time:
        # Each text in its own window.
        (mask,) = (prompts.pop(name) for name in list(prompts) if "mask" in name)
        texts = [{name: value[at : at + 1] for name, value in prompts.items()} for at in range(len(x))]
        for text, window in zip(texts, mask.sum(1).tolist(), strict=True):
            text["prompt_embeds"] = text["prompt_embeds"][:, :window]
        noise = row.packed(pipeline, x).split(1)
        told = {**row.unguided, **options}
        made = [pipeline(**text, latents=one, **told)[0] for text, one in zip(texts, noise, strict=True)]
        return row.unpacked(pipeline, torch.cat(made), x)
    latents = pipeline(**prompts, **row.unguided, **options, latents=row.packed(pipeline, x))[0]
    return row.unpacked(pipeline, latents, x)


@every_family
@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_the_stock_pipeline_samples_what_we_sample(row: Row, policy: str) -> None:
    student = student_of(row, row.build(), policy)
    disturb(student)
    x = states(row)
    ours = sample_student(student, x, conditioning(row), temperature=0.4)
    scheduler = student.scheduler(temperature=0.4, patch=student.family.token_positions)
    theirs = by_pipeline(row, root(student.model), scheduler, x, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row", FLOW.values(), ids=FLOW)
def test_the_stock_pipeline_agrees_on_the_teachers_velocity(row: Row) -> None:
    """Euler steps by the pipeline's own call of the network, on a fixed grid of sigmas; others are in test_unets.py."""
    model, family, x = row.build(), family_of(row.family, row.guidance), states(row)
    theirs = by_pipeline(row, model, euler(3), x, 3)
    ours = sample_teacher(family, model, x, conditioning(row), 3, 2.0, Guidance())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row", FLOW.values(), ids=FLOW)
def test_a_new_student_makes_what_its_teacher_does_in_euler_steps(row: Row, monkeypatch) -> None:
    """Both by the stock pipeline; test_flux2.py has it for policies other than GM."""
    student = certain(row, "gm", monkeypatch)
    scheduler = student.scheduler(patch=student.family.token_positions)
    scheduler.set_timesteps(2)
    found = by_pipeline(row, root(student.model), scheduler, x := states(row), 2)
    expected = by_pipeline(row, row.build(), euler_at(scheduler.sigmas[:-1].tolist()), x, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every_masked_family
@pytest.mark.parametrize("learning", [True, False])
def test_a_sample_does_not_depend_on_the_lengths_beside_it(name: str, learning: bool) -> None:
    row = ZOO[name]
    model, family, x = row.build(), family_of(name), states(row)
    with torch.set_grad_enabled(learning):
        both = family.call(model, x, RAW, conditioning(row, (7, 4)))
        alone = family.call(model, x[1:], RAW[1:], conditioning(row, (4,)))
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)


def test_flux_is_told_its_guidance() -> None:
    row = ZOO["flux"]
    model, x = row.build(), states(row)
    one, other = (family_of("flux", guidance).call(model, x, RAW, conditioning(row)) for guidance in (3.5, 1.0))
    assert not torch.allclose(one, other, atol=1e-4)


@every_masked_family
def test_true_guidance_is_taken_against_the_empty_prompt(name: str) -> None:
    row = ZOO[name]
    model, family, x = row.build(), family_of(name), states(row)
    given = conditioning(row)
    empty = negative_of(given)
    assert set(empty) == set(row.encode(1))
    with torch.no_grad():
        conditional, unconditional = family.call(model, x, RAW, given), family.call(model, x, RAW, empty)
    found = teacher_velocity(family, model, Guidance(4.0), x, RAW, given)
    torch.testing.assert_close(found, unconditional + 4 * (conditional - unconditional), rtol=1e-4, atol=1e-4)
    twice = teacher_velocity(family, model, Guidance(4.0), torch.cat([x, x]), RAW.repeat(2), given)
    torch.testing.assert_close(twice, torch.cat([found, found]), rtol=1e-4, atol=1e-4)
    assert repeat(given, 2)["negative_prompt_embeds"].shape[0] == 4


def test_renormalised_guidance_is_the_stock_pipelines() -> None:
    row = ZOO["qwen-image"]
    preset = resolve("qwen-image", None, ["teacher.guidance_mode=renormalised"], {})
    guidance, model, x, steps = guidance_of(preset.teacher), row.build(), states(row), 3
    family = family_of(row.family, guidance.scale)
    pipeline = family.pipeline(model, euler(steps, 3.2))
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 8 * LATENTS[1], "width": 8 * LATENTS[2], "num_inference_steps": steps, "output_type": "latent"}
    given = family.pipeline_inputs(conditioning(row))
    theirs = row.unpacked(pipeline, pipeline(**given, **size, latents=row.packed(pipeline, x)).images, x)
    ours = sample_teacher(family, model, x, conditioning(row), steps, 3.2, guidance)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = sample_teacher(family, model, x, conditioning(row), steps, 3.2, Guidance(guidance.scale))
    assert (ours - plain).abs().max() > 0.01


def test_packing_is_the_stock_pipelines() -> None:
    x = torch.randn(2, 3, 6, 4, generator=seeded())
    torch.testing.assert_close(pack(x), diffusers.FluxPipeline._pack_latents(x, 2, 3, 6, 4), rtol=0, atol=0)
    torch.testing.assert_close(unpack(pack(x), 6, 4), x, rtol=0, atol=0)


def test_a_channel_of_the_whole_token_reaches_its_four_positions() -> None:
    x, whole = torch.randn(2, 3, 6, 4, generator=seeded()), torch.randn(2, 6, 1, generator=seeded(1))
    found = unpack(torch.cat([pack(x), whole], dim=-1), 6, 4)
    torch.testing.assert_close(found[:, :3], x, rtol=0, atol=0)
    torch.testing.assert_close(
        found[:, 3], whole.reshape(2, 3, 2).repeat_interleave(2, 1).repeat_interleave(2, 2), rtol=0, atol=0
    )


@every_family
def test_an_outline_has_the_names_and_shapes_of_the_model_and_no_weights(row: Row, tmp_path) -> None:
    model = row.build()
    row.save(tmp_path)
    outline = family_of(row.family).outline(tmp_path)
    assert {name: value.shape for name, value in outline.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert all(value.is_meta for value in outline.parameters())


@every_family
def test_a_base_of_another_architecture_is_refused(row: Row, tmp_path) -> None:
    other = next(other for other in ZOO.values() if other.model_name != row.model_name)
    other.build().save_pretrained(tmp_path / "other")
    for load in (family_of(row.family).load, family_of(row.family).outline):
        with pytest.raises(UsageError, match=f"holds a {other.model_name}, not a {row.model_name}"):
            load(tmp_path / "other")
        with pytest.raises(UsageError, match="there is no model in"):
            load(tmp_path)


def test_a_model_of_no_family_is_named_and_why_it_has_none(tmp_path) -> None:
    folder = tmp_path / "base"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text('{"_class_name": "MiniMaxH3Transformer3DModel"}')
    refused = r"holds a MiniMaxH3Transformer3DModel, not a FluxTransformer2DModel; piflow has no family for that model"
    with pytest.raises(UsageError, match=f"{refused}$") as error:
        family_of("flux").outline(folder)
    assert error.value.hint == "name another base: --base PATH"
    (folder / "modular_model_index.json").write_text("{}")
    with pytest.raises(
        UsageError, match=f"{refused}, whose pipeline is a modular one; of those piflow has flux3-klein$"
    ):
        family_of("flux").outline(folder)
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(UsageError, match=f"{refused}$"):
        family_of("flux").outline(folder)


def test_a_model_of_another_family_comes_with_its_families(tmp_path) -> None:
    ZOO["flux"].build().save_pretrained(tmp_path)
    with pytest.raises(UsageError) as error:
        family_of("qwen-image").outline(tmp_path)
    assert "whose teacher.family is flux or flux-cfg" in error.value.hint


# Prompts and latents: the stock pipelines' own parts, tiny.


class Tokenizer:
    """Letters as tokens, padded as it is asked to."""

    model_max_length = 10

    def __call__(
        self, texts: list[str], padding: object = None, max_length: int = 0, **options: object
    ) -> SimpleNamespace:
        tokens = [[3 + ord(letter) % 50 for letter in text] for text in texts]
        length = max_length if padding == "max_length" else max(map(len, tokens))
        ids = torch.tensor([(row + [0] * length)[:length] for row in tokens])
        return Batch(
            input_ids=ids,
            attention_mask=torch.tensor([[1] * min(len(row), length) + [0] * (length - len(row)) for row in tokens]),
        )

    def apply_chat_template(self, messages: list[dict], **options: object) -> str:
        return f"<{messages[0]['content']}>"

    added_tokens_encoder: dict = {}

    def tokenize(self, text: str) -> list[str]:
        return list(text)

    def batch_decode(self, ids: Tensor) -> list[str]:
        return []


class Batch(SimpleNamespace):
    def to(self, device: object) -> "Batch":
        return self


class LanguageModel(nn.Module):
    """Embeds tokens; layers differ by a shift, so that a test sees which one is read."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool) -> SimpleNamespace:
        hidden = self.table(input_ids) * attention_mask.unsqueeze(-1)
        return SimpleNamespace(hidden_states=[hidden, hidden + 1, hidden + 2])


def language_pipeline(name: str) -> diffusers.DiffusionPipeline:
    torch.manual_seed(0)
    kind = getattr(diffusers, family_of(name).pipeline_name)
    return kind(scheduler=None, vae=None, text_encoder=LanguageModel(), tokenizer=Tokenizer(), transformer=None)


@pytest.mark.parametrize(("name", "layer", "extra"), [("qwen-image", 2, None), ("z-image", 1, "<{}>")])
def test_prompts_of_masked_families_are_the_hidden_states_of_their_own_tokens(name, layer, extra, monkeypatch) -> None:
    pipeline = language_pipeline(name)
    texts = ["a cat", "two dogs", ""]
    with torch.no_grad():
        found = family_of(name).encode_prompts(pipeline, texts)
        assert all(
            torch.equal(one["prompt_embeds"], family_of(name).encode_prompts(pipeline, [text])[0]["prompt_embeds"])
            for one, text in zip(found, texts)
        )
        for text, one in zip(texts, found):
            # Qwen-Image drops the 34 tokens of its template.
            whole = pipeline.prompt_template_encode.format(text) if extra is None else extra.format(text)
            ids = Tokenizer()([whole]).input_ids
            expected = pipeline.text_encoder.table(ids)[0] + layer
            expected = expected[34:] if extra is None else expected
            torch.testing.assert_close(one["prompt_embeds"], expected)
            assert one["prompt_embeds_mask"].tolist() == [1] * expected.shape[0]
    assert texts == ["a cat", "two dogs", ""]


CLIP = CLIPTextConfig(
    vocab_size=64,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=10,
    bos_token_id=1,
    eos_token_id=2,
)
T5 = T5Config(vocab_size=64, d_model=6, d_kv=3, d_ff=8, num_layers=1, num_heads=2)


def flux_texts() -> diffusers.FluxPipeline:
    """The stock pipeline with its text encoders alone, tiny."""
    torch.manual_seed(0)
    return diffusers.FluxPipeline(
        None, None, CLIPTextModel(CLIP).eval(), Tokenizer(), T5EncoderModel(T5).eval(), Tokenizer(), None
    )


def test_prompts_of_flux_are_padded_and_pooled() -> None:
    pipeline = flux_texts()
    clip, t5 = pipeline.text_encoder, pipeline.text_encoder_2
    family = family_of("flux")
    with torch.no_grad():
        found = family.encode_prompts(pipeline, ["a cat", "two dogs"])
        ids = Tokenizer()(["a cat"], padding="max_length", max_length=512).input_ids
        torch.testing.assert_close(found[0]["prompt_embeds"], t5(ids)[0][0])
        ids = Tokenizer()(["a cat"], padding="max_length", max_length=10).input_ids
        torch.testing.assert_close(found[0]["pooled_prompt_embeds"], clip(ids).pooler_output[0])
    assert not torch.equal(found[0]["prompt_embeds"], found[1]["prompt_embeds"])


@every_family
def test_latents_are_normalised_and_come_back(row: Row) -> None:
    family, vae = family_of(row.family), tiny_vae(row.family)
    frames, latent_frames = ((), ()) if family.frame_step is None else ((family.frame_step + 1,), (2,))
    images = torch.rand(2, 3, *frames, 16, 32, generator=seeded()) * 2 - 1
    with torch.no_grad():
        mean, std = family.encode_images(vae, images)
        sure = family.vae_name == "AutoencoderDC"
        assert mean.shape == std.shape == (2, 4, *latent_frames, 2, 4) and ((std == 0) if sure else (std > 0)).all()
        if family.vae_name == "AutoencoderKLQwenImage":
            posterior = vae.encode(images.unsqueeze(2)).latent_dist
            torch.testing.assert_close(mean[:, 2], (posterior.mode()[:, 2, 0] - 2.0) / 0.5)
            torch.testing.assert_close(std[:, 1], posterior.std[:, 1, 0] / 3.0)
            plain = vae.decode(posterior.mode()).sample[:, :, 0]
        elif row.makes_videos and family.vae_name != "AutoencoderKLHunyuanVideo":
            posterior = vae.encode(images).latent_dist
            torch.testing.assert_close(mean[:, 2], (posterior.mode()[:, 2] - 2.0) / 0.5)
            torch.testing.assert_close(std[:, 1], posterior.std[:, 1] / 3.0)
            plain = vae.decode(posterior.mode()).sample
        elif family.vae_name == "AutoencoderKLFlux2":
            # How these are normalised is shown against the stock pipelines, in test_flux2.py and test_ernie.py.
            posterior = vae.encode(images).latent_dist
            away = posterior.std / (vae.bn.running_var + family.variance_floor(vae)).sqrt().reshape(4, 2, 2).repeat(
                1, 1, 2
            )
            torch.testing.assert_close(std, away)
            plain = vae.decode(posterior.mode()).sample
        elif sure:
            latents = vae.encode(images).latent
            torch.testing.assert_close(mean, latents * 0.5)
            plain = vae.decode(latents).sample
        else:
            posterior = vae.encode(images).latent_dist
            shift = vae.config.get("shift_factor")
            torch.testing.assert_close(mean, (posterior.mode() - (0.0 if shift is None else shift)) * 0.5)
            torch.testing.assert_close(std, posterior.std * 0.5)
            plain = vae.decode(posterior.mode()).sample
        torch.testing.assert_close(family.decode_latents(vae, mean), plain, rtol=1e-4, atol=1e-5)


@every_family
def test_encoders_are_known_before_they_are_opened(row: Row, tmp_path, monkeypatch) -> None:
    _, preset = zoo_preset(row, tmp_path)
    tiny_vae(row.family).save_pretrained(tmp_path / "base" / "vae")
    family = family_of(row.family)
    pipeline = SimpleNamespace(to=lambda device: pipeline)
    monkeypatch.setattr(family, "text_pipeline", lambda folder: pipeline, raising=False)
    monkeypatch.setattr(
        family, "encode_prompts", lambda used, texts: [row.encode(len(text)) for text in texts], raising=False
    )
    factory = family.encoders(preset.teacher)
    assert (factory.latent_channels, factory.downsampling) == (4, 8)
    assert factory.identity["model"] == str(tmp_path / "base") and factory.identity["revision"] == "newest"
    encoders = factory.open(torch.device("cpu"), False)
    found = encoders.encode_text(["four", "sevenly"])
    torch.testing.assert_close(found[0]["prompt_embeds"], row.encode(4)["prompt_embeds"])
    frames, latent_frames = ((), ()) if family.frame_step is None else ((family.frame_step + 1,), (2,))
    encoded = encoders.encode_images(torch.zeros(1, 3, *frames, 16, 16))
    assert [value.shape for value in encoded] == [(1, 4, *latent_frames, 2, 2)] * 2
    encoders.close()
    assert encoders._pipeline is None and encoders._vae is None


@every_family
def test_pictures_are_decoded_in_full_precision_under_autocast_too(row: Row) -> None:
    family, vae = family_of(row.family), tiny_vae(row.family)
    latents = states(row)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = decode_each(family, vae, latents.bfloat16())
    with torch.no_grad():
        assert torch.equal(found, decode_each(family, vae, latents.bfloat16().float()))


@pytest.mark.parametrize("offload", [False, True])
def test_closed_encoders_leave_the_memory(offload, monkeypatch, tmp_path) -> None:
    family = family_of("flux")
    monkeypatch.setattr(family, "text_pipeline", lambda folder: flux_texts(), raising=False)
    encoders = StockEncoders(family, tmp_path, torch.device("cpu"), offload)
    encoders.encode_text(["a cat"])
    held = [ref(value) for value in encoders._pipeline.text_encoder_2.parameters()]
    encoders.close()
    assert held and not any(one() is not None for one in held)


def test_offloaded_text_encoders_say_the_same_and_hold_one_layer_at_a_time(monkeypatch, tmp_path) -> None:
    """On the CPU both memories are one; what is counted is what would be on the device."""
    here, seen, most = {}, set(), [0]

    def watched(name: str, change) -> None:
        original = getattr(group_offloading.ModuleGroup, name)

        def wrapper(group, *given):
            values = [*(value for module in group.modules for value in module.parameters()), *group.parameters]
            change({id(value): value.numel() for value in values})
            most[0] = max(most[0], sum(here.values()))
            return original(group, *given)

        monkeypatch.setattr(group_offloading.ModuleGroup, name, wrapper)

    watched("onload_", lambda values: (here.update(values), seen.update(values)))
    watched("offload_", lambda values: [here.pop(one, None) for one in values])
    family = family_of("flux")
    pipeline = flux_texts()
    monkeypatch.setattr(family, "text_pipeline", lambda folder: pipeline, raising=False)
    whole, offloaded = (StockEncoders(family, tmp_path, torch.device("cpu"), offload) for offload in (False, True))
    expected, found = (encoders.encode_text(["a cat", "two dogs"]) for encoders in (whole, offloaded))
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    used = [value for encoder in (pipeline.text_encoder, pipeline.text_encoder_2) for value in encoder.parameters()]
    # The largest is the table of T5, 512; what the dry run counts on is two of the largest.
    assert seen == {id(value) for value in used} and 512 <= most[0] <= 512 + 384 and not here


def test_the_memory_of_text_encoders_is_known_from_their_configs(tmp_path) -> None:
    family = family_of("flux")
    assert family.text_encoder_bytes(tmp_path, False) is None
    for folder, kind, config in (("text_encoder", CLIPTextModel, CLIP), ("text_encoder_2", T5EncoderModel, T5)):
        config.architectures = [kind.__name__]
        config.save_pretrained(tmp_path / folder)
    # T5: table 64 x 6, attention 4 of 6 x 6 and 32 x 2 biases by distance, feed-forward 2 of 6 x 8, 3 norms of 6.
    t5 = 384 + 144 + 64 + 96 + 18
    # CLIP: tables 64 x 8 and 10 x 8; attention 4 of 8 x 8 + 8, feed-forward 2 of 8 x 8 + 8, 3 norms of 16.
    clip = 512 + 80 + 288 + 144 + 48
    assert family.text_encoder_bytes(tmp_path, False) == 2 * (t5 + clip)
    # The two tables are the largest layers.
    assert family.text_encoder_bytes(tmp_path, True) == 2 * (512 + 384)
