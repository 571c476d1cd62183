"""The program that makes the emoji teacher, on four squares and with tiny networks."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import FluxPipeline
from emoji_data import COLOURS, write_squares
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from piflow_cli.embedded.emoji.__main__ import TRAINED, main, parse_arguments, recipe_of
from piflow_cli.embedded.emoji.autoencoder import autoencoder_loss, load_latents
from piflow_cli.embedded.emoji.data import SIDE
from piflow_cli.embedded.emoji.flow import FlowData, is_long, noise_levels
from piflow_cli.embedded.emoji.grid import own_pictures
from piflow_cli.embedded.emoji.guidance import guided, new_student
from piflow_cli.embedded.emoji.loop import Course, Limits, Run, average_of, learning_rate
from piflow_cli.embedded.emoji.network import new_autoencoder, new_transformer, velocity
from piflow_cli.embedded.emoji.precision import training_precision
from piflow_cli.embedded.emoji.recipe import AutoencoderRecipe, FlowRecipe, Recipe, Schedule, TransformerRecipe
from piflow_cli.embedded.emoji.teacher import load_teacher, new_teacher, train_teacher
from piflow_cli.embedded.emoji.text import train_text, trained_encoders
from piflow_cli.embedded.emoji.write import open_pipeline

SIZES = {
    "text": {"readout-width": 16},
    "autoencoder": {"channels": "4,4,4", "latent-channels": 4, "norm-groups": 2},
    "teacher": {"width": 32, "head-width": 16, "double-blocks": 1, "single-blocks": 1, "text-width": 16},
    "guidance": {},
}
CPU = torch.device("cpu")


def options(work) -> list[str]:
    """The command line for four iterations of each stage with tiny networks."""
    given = ["--work", str(work), "--device", "cpu", "--log-every", "2", "--save-seconds", "0"]
    for stage, sizes in SIZES.items():
        common = {"iterations": 4, "batch-size": 4, "warmup": 2}
        long = {} if stage in ("autoencoder", "text") else {"long-every": 4, "long-batch-size": 2, "long-length": 48}
        for name, value in {**common, **long, **sizes}.items():
            given += [f"--{stage}-{name}", str(value)]
    return given


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A work folder in which all stages but the grid have run."""
    work = tmp_path_factory.mktemp("emoji")
    write_squares(work)
    main([*options(work), "--stage", "data", *TRAINED, "write"])
    return work


@pytest.fixture(scope="module")
def recipe(made) -> Recipe:
    return recipe_of(parse_arguments(options(made)))


def parameters(*models: nn.Module) -> int:
    return sum(parameter.numel() for model in models for parameter in model.parameters())


def test_the_networks_have_the_sizes_they_ship_with():
    transformer = new_transformer(TransformerRecipe(), AutoencoderRecipe().latent_channels, guidance_embeds=True)
    assert 3_000_000 <= parameters(transformer) <= 6_000_000
    autoencoder = new_autoencoder(AutoencoderRecipe())
    assert parameters(autoencoder) <= 2_500_000
    assert autoencoder.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean.shape == (1, 16, 16, 16)


def test_a_stock_pipeline_draws_by_the_folder(made):
    pipeline = FluxPipeline.from_pretrained(made / "teachers" / "emoji")
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": SIDE, "width": SIDE, "num_inference_steps": 4}
    (picture,) = pipeline("red square", **size, max_sequence_length=32).images
    assert picture.size == (SIDE, SIDE)
    # Its default of 512 tokens works too.
    assert pipeline("red square", **size).images[0].size == (SIDE, SIDE)


def test_the_teacher_of_two_halves_is_guided_by_a_negative_prompt(made):
    pipeline = open_pipeline(made / "teachers", "emoji-cfg", CPU)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"height": SIDE, "width": SIDE, "num_inference_steps": 1, "output_type": "latent"}
    arguments |= {"max_sequence_length": 32, "latents": torch.randn(1, 64, 16, generator=torch.manual_seed(0))}
    velocities = []
    for prompt, scale in (("red square", 1.0), ("", 1.0), ("red square", 3.0)):
        drawn = pipeline(prompt, negative_prompt="", true_cfg_scale=scale, **arguments).images
        velocities.append(arguments["latents"] - drawn)
    conditional, unconditional, both = velocities
    torch.testing.assert_close(both, unconditional + 3 * (conditional - unconditional), rtol=1e-4, atol=1e-6)


def test_weights_are_bfloat16_and_their_story_is_beside_them(made, recipe):
    folder = made / "teachers" / "emoji"
    for file in folder.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values() if tensor.is_floating_point()} == {torch.bfloat16}
        assert file.stat().st_mode & 0o777 == 0o644
    story = json.loads((folder / "training.json").read_text())
    assert story["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert [story[stage]["iterations_done"] for stage in TRAINED] == [4] * len(TRAINED)
    assert [count for count, _ in story["teacher"]["losses"]] == [2, 4]
    (sitting,) = story["teacher"]["sittings"]
    assert (sitting["from"], sitting["device"], sitting["batch_size"]) == (0, "cpu", 4)
    for needed in ("Noto Emoji", "Google", "Apache", "What was changed"):
        assert (
            needed in (folder / "README.md").read_text()
            and needed in (folder.parent / "emoji-cfg" / "README.md").read_text()
        )


def test_latents_are_normalised_as_the_pipeline_undoes_it(made):
    mean, std = load_latents(made)
    assert mean.shape == std.shape == (len(COLOURS), 64, 16)
    assert mean.mean().item() == pytest.approx(0, abs=1e-5)
    assert (mean.var() + std.square().mean()).item() == pytest.approx(1, abs=1e-4)
    config = json.loads((made / "teachers" / "emoji" / "vae" / "config.json").read_text())
    figures = json.loads((made / "autoencoder.json").read_text())
    assert [config[name] == figures[name] for name in ("shift_factor", "scaling_factor")] == [True, True]


def test_a_finished_stage_is_not_trained_again(made, capsys):
    before = (made / "teacher.pt").read_bytes()
    main([*options(made), "--stage", "teacher"])
    assert "iteration" not in capsys.readouterr().err
    assert (made / "teacher.pt").read_bytes() == before


def test_going_on_equals_never_having_stopped(made, recipe, monkeypatch):
    whole = average_of(made / "teacher.pt")
    (made / "teacher.pt").unlink()
    limits = Limits(log_every=2, save_seconds=0)

    class Killed(Exception):
        pass

    def draw(self, recipe, iteration, generator, own=FlowData.draw):
        if iteration == 3:
            raise Killed
        return own(self, recipe, iteration, generator)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FlowData, "draw", draw)
        train_teacher(made, recipe, limits, CPU)
    facts = train_teacher(made, recipe, limits, CPU)
    assert facts["iterations_done"] == 4 and [sitting["from"] for sitting in facts["sittings"]] == [0, 2]
    again = average_of(made / "teacher.pt")
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_the_rate_ends_at_zero_with_the_iterations_or_with_the_time():
    schedule = Schedule(iterations=100, learning_rate=2.0, warmup=10)
    assert learning_rate(0, 0.0, schedule) == pytest.approx(0.2)
    assert learning_rate(50, 0.5, schedule) == pytest.approx(1.0)
    assert learning_rate(99, 1.0, schedule) == pytest.approx(0.0)
    assert Course(50, 3.0).progress(schedule, Limits()) == 0.5
    assert Course(50, 3.0).progress(schedule, Limits(seconds=4.0)) == 0.75
    assert Course(50, 3.0).progress(schedule, Limits(seconds=60.0)) == 0.5


def test_a_run_ends_with_its_time(tmp_path):
    model = nn.Linear(1, 1)
    run = Run("slow", model, Schedule(iterations=10**9), tmp_path / "slow.pt", Limits(seconds=0.2, log_every=10**9))
    run.train(lambda model, iteration, generator: model(torch.ones(1, 1)).square().mean())
    assert 0 < run.course.done < 10**9 and run.finished
    assert run.facts()["iterations_done"] == run.course.done


def test_uniform_noise_levels_have_one_in_each_stratum():
    recipe = FlowRecipe(uniform_times=1.0)
    sigma = noise_levels(recipe, 64, torch.Generator().manual_seed(0))
    assert torch.equal((sigma * 64).floor(), torch.arange(64.0))


def test_half_of_the_shifted_noise_levels_lie_above_the_shifted_middle():
    recipe = FlowRecipe(uniform_times=0.0, shift=3.0)
    sigma = noise_levels(recipe, 1000, torch.Generator().manual_seed(0))
    # s = 1/2 goes to 3/2 / (1 + 2/2).
    assert (sigma > 0.75).sum() == 500
    # The logit of s is normal: one standard deviation holds 68.27 %.
    s = sigma / (3 - 2 * sigma)
    assert (s.logit().abs() < 1).sum().item() == pytest.approx(683, abs=2)


def test_a_batch_lies_between_data_and_noise(made, recipe):
    data = FlowData.load(made, recipe.teacher, CPU)
    data = replace(data, std=torch.zeros_like(data.std))
    recipe = replace(recipe.teacher, batch_size=400, caption_dropout=0.25)
    batch = data.draw(recipe, 0, torch.Generator().manual_seed(0))
    x_0 = batch.x - batch.sigma[:, None, None] * batch.target
    distance = (x_0[:, None] - data.mean).square().flatten(2).mean(-1)
    nearest = distance.argmin(1)
    assert distance.amin(1).max() < 1e-10
    empty = (batch.t5_ids == data.t5_empty).all(1)
    assert torch.equal(empty, (batch.clip_ids == data.clip_empty).all(1))
    assert empty.float().mean().item() == pytest.approx(0.25, abs=0.11)
    # Captions are those of the picture.
    own = (data.t5_ids[nearest] == batch.t5_ids[:, None]).all(2).any(1)
    assert own[~empty].all()


def test_long_batches_hold_the_same_text_behind_more_padding(made, recipe):
    data = FlowData.load(made, recipe.teacher, CPU)
    assert [is_long(recipe.teacher, iteration) for iteration in range(5)] == [False, False, False, True, False]
    batch = data.draw(recipe.teacher, 3, torch.Generator().manual_seed(0))
    assert batch.t5_ids.shape == (2, 48) and not batch.t5_ids[:, 32:].any()
    assert data.empty(batch)[1].shape == (2, 48)


def test_guidance_is_a_line_through_both_velocities(made, recipe):
    teacher = load_teacher(made, recipe)
    batch = FlowData.load(made, recipe.teacher, CPU).draw(recipe.teacher, 0, torch.Generator().manual_seed(0))
    text = torch.randn(8, 32, 16), torch.randn(8, 16)
    own = [
        velocity(teacher.transformer, batch.x, batch.sigma, (text[0][h], text[1][h])) for h in (slice(4), slice(4, 8))
    ]
    found = guided(teacher.transformer, batch, text, torch.tensor([0.0, 1.0, 2.0, 1.0]))
    expected = [own[1][0], own[0][1], 2 * own[0][2] - own[1][2], own[0][3]]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_student_of_guidance_starts_as_the_teacher(made, recipe):
    teacher = load_teacher(made, recipe)
    student = new_student(teacher, recipe)
    x, sigma = torch.randn(2, 64, 16), torch.tensor([0.2, 0.9])
    text = torch.randn(2, 32, 16), torch.randn(2, 16)
    expected = velocity(teacher.transformer, x, sigma, text)
    assert torch.equal(velocity(student, x, sigma, text, torch.tensor([1.0, 6.0])), expected)


def test_a_new_teacher_stands_still(made, recipe):
    teacher = new_teacher(made, recipe)
    text = torch.randn(2, 32, 16), torch.randn(2, 16)
    assert not velocity(teacher.transformer, torch.randn(2, 64, 16), torch.tensor([0.2, 0.9]), text).any()


def test_the_divergence_counts_as_often_as_the_recipe_says():
    recipe = AutoencoderRecipe(channels=(4, 4), latent_channels=2, norm_groups=2, kl=0.0)
    model, pictures = new_autoencoder(recipe), torch.rand(2, 3, 8, 8)
    posterior = model.encode(pictures).latent_dist
    losses = [
        autoencoder_loss(model, pictures, replace(recipe, kl=kl), torch.Generator().manual_seed(0)).item()
        for kl in (0.0, 2.0)
    ]
    # diffusers sums the divergence over all values of a picture.
    divergence = (posterior.kl() / posterior.mean[0].numel()).mean().item()
    assert losses[1] - losses[0] == pytest.approx(2 * divergence, rel=1e-4)


def test_text_encoders_tell_the_pictures_of_their_captions(tmp_path, made, recipe):
    (tmp_path / "data").symlink_to(made / "data")
    mean = torch.randn(len(COLOURS), 64, 16, generator=torch.manual_seed(0))
    save_file({"mean": mean, "std": torch.zeros_like(mean)}, tmp_path / "latents.safetensors")
    known = replace(
        recipe, text=replace(recipe.text, iterations=100, batch_size=16, learning_rate=1e-2, readout_width=64)
    )
    facts = train_text(tmp_path, known, Limits(log_every=20), CPU)
    # Who knew nothing of the caption would be left with the variance among the pictures, twice.
    assert facts["final_loss"] < 0.2 * 2 * mean.var(0, correction=0).mean().item()


def test_a_new_teacher_reads_as_the_stage_of_text_left_its_encoders(made, recipe):
    kept = trained_encoders(made)
    assert all(torch.equal(kept[name], value) for name, value in new_teacher(made, recipe).text.state_dict().items())


def test_attention_is_computed_in_float32_and_handed_on_in_its_own_dtype():
    q, k, v = torch.randn(3, 1, 2, 8, 4, generator=torch.manual_seed(0)).bfloat16()
    with training_precision(CPU):
        found = F.scaled_dot_product_attention(q, key=k, value=v)
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).bfloat16()
    assert torch.equal(found, expected)


def test_matrices_of_blocks_take_orthogonal_steps(tmp_path):
    """Muon's step is near the orthogonal factor of the gradient, times 0.2 sqrt of the longer side."""
    model = nn.Linear(8, 8, bias=True)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    schedule = Schedule(iterations=1, learning_rate=1e-2, warmup=1)
    run = Run("one", model, schedule, tmp_path / "one.pt", Limits(), [model.weight])
    x = torch.randn(64, 8, generator=torch.manual_seed(0))
    run.train(lambda model, iteration, generator: (model(x) - x).square().mean())
    lengths = torch.linalg.svdvals(weight - model.weight.detach()) / (1e-2 * 0.2 * 8**0.5)
    assert lengths.min() > 0.5 and lengths.max() < 1.3
    # AdamW's first step is the sign of the gradient.
    torch.testing.assert_close((bias - model.bias.detach()).abs(), torch.full((8,), 1e-2), rtol=1e-3, atol=0)


@pytest.mark.parametrize("stage", ["teacher", "guidance"])
def test_a_run_without_muon_is_asked_for_by_name(tmp_path, stage: str):
    plain, without = (
        recipe_of(parse_arguments(["--work", str(tmp_path), *more])) for more in ([], [f"--no-{stage}-muon"])
    )
    assert getattr(plain, stage).muon and not getattr(without, stage).muon


def test_own_pictures_are_those_nearest():
    pictures = torch.eye(4).reshape(4, 1, 2, 2)
    drawn = pictures[[0, 1, 3]] + 0.01
    assert own_pictures(drawn, torch.tensor([0, 1, 2]), pictures) == pytest.approx(2 / 3)
