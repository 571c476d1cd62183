"""The scheduler against published samples, through a stock pipeline, and against the rollouts it is made of."""

import json
import math

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from helpers import GOLDEN, close, golden, seeded
from safetensors.torch import load_file
from torch import Tensor

from piflow_cli.core.decoding import PolicyDecoder
from piflow_cli.core.heads import HeadSite, attach_head
from piflow_cli.core.policies.gmflow import GMHead
from piflow_cli.core.rollout import rollout
from piflow_cli.students.scheduler import PolicyScheduler, final_temperature

FLUX_SITE = HeadSite("proj_out", patch=4, channel_major=True, tap="norm_out", tap_at="input", tap_key=1)


@pytest.fixture(scope="module")
def flux() -> FluxTransformer2DModel:
    """The golden student: an unmodified FLUX-shaped model, its published LoRA, norm and head."""
    folder = GOLDEN / "flux-tiny"
    model = FluxTransformer2DModel.from_pretrained(folder / "transformer").eval()
    config = json.loads((folder / "adapter" / "config.json").read_text())
    tensors = load_file(folder / "adapter" / "diffusion_pytorch_model.safetensors")
    head = GMHead(model.proj_out, config["num_gaussians"], 4, True, model.inner_dim, config["logstd_inner_dim"])
    head.load_state_dict(
        {name.removeprefix("proj_out_"): value for name, value in tensors.items() if name.startswith("proj_out_")}
    )
    model.norm_out.linear.load_state_dict({part: tensors[f"norm_out.linear.{part}"] for part in ("weight", "bias")})
    model.load_lora_adapter({name: value for name, value in tensors.items() if ".lora_" in name}, prefix=None)
    attach_head(model, FLUX_SITE, head)
    return model


def packed(latents: Tensor) -> Tensor:
    batch, channels, height, width = latents.shape
    return FluxPipeline._pack_latents(latents, batch, channels, height, width)


def call_flux(model: FluxTransformer2DModel) -> Tensor:
    numbers = golden("flux-tiny/outputs.safetensors")
    latents = numbers["latents"]
    height, width = (size // 2 for size in latents.shape[2:])
    with torch.no_grad():
        return model(
            hidden_states=packed(latents),
            encoder_hidden_states=numbers["prompt_embeds"],
            pooled_projections=numbers["pooled_prompt_embeds"],
            timestep=numbers["step0.timestep"],
            img_ids=FluxPipeline._prepare_latent_image_ids(2, height, width, "cpu", torch.float32),
            txt_ids=torch.zeros(numbers["prompt_embeds"].shape[1], 3),
            guidance=torch.full((2,), 3.5),
            return_dict=False,
        )[0]


def test_the_first_output_of_the_network_equals_the_published_one(flux) -> None:
    numbers = golden("flux-tiny/outputs.safetensors")
    output = call_flux(flux)
    policy = PolicyDecoder("gm", 4, 3.2, patch=4).policy(
        output, packed(numbers["latents"]), torch.ones(2, dtype=torch.float64)
    )
    means = policy.means.permute(0, 3, 1, 2, 4).flatten(3)
    close(means, numbers["step0.means"])
    logweights = policy.logweights.log_softmax(1).permute(0, 3, 1, 2, 4).flatten(3)
    close(logweights, numbers["step0.logweights"])
    close(policy.logstds, numbers["step0.logstds"].flatten())


@pytest.mark.parametrize("nfe", [4, 6])
@pytest.mark.parametrize("temperature", ["auto", 1.0])
def test_the_stock_pipeline_reproduces_the_published_latents(flux, nfe: int, temperature: float | str) -> None:
    numbers = golden("flux-tiny/outputs.safetensors")
    scheduler = PolicyScheduler("gm", 4, patch=4, shift=3.2, final_step_scale=0.5, temperature=temperature)
    pipeline = FluxPipeline(scheduler, None, None, None, None, None, flux)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt_embeds=numbers["prompt_embeds"],
        pooled_prompt_embeds=numbers["pooled_prompt_embeds"],
        guidance_scale=3.5,
        height=64,
        width=96,
        latents=packed(numbers["latents"]),
        num_inference_steps=nfe,
        output_type="latent",
    ).images
    ours = FluxPipeline._unpack_latents(latents, 64, 96, 8)
    theirs = numbers[f"sample.nfe{nfe}.temperature_{temperature}"]
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-4


def output_of(kind: str = "gm", components: int = 3, channels: int = 2, seed: int = 0) -> Tensor:
    width = components * channels + {"gm": components + 1, "momentum": 2 * components - 1}.get(kind, 0)
    return 0.5 * torch.randn(4, width, 3, 5, generator=seeded(seed))


@pytest.mark.parametrize("kind", ["gm", "dx", "dx-poly", "momentum"])
@pytest.mark.parametrize(("nfe", "final"), [(1, 1.0), (2, 1.0), (4, 0.5)])
def test_steps_are_rollouts_between_the_edges_of_the_time_grid(kind: str, nfe: int, final: float) -> None:
    scheduler = PolicyScheduler(kind, 3, segment=0.5, shift=2.0, final_step_scale=final, temperature=0.5)
    scheduler.set_timesteps(nfe)
    decoder = PolicyDecoder(kind, 3, 2.0, 0.5)
    x = torch.randn(4, 2, 3, 5, generator=seeded(9))
    for index, timestep in enumerate(scheduler.timesteps):
        start, end = (torch.full((4,), scheduler.raws[place], dtype=torch.float64) for place in (index, index + 1))
        policy = decoder.policy(output_of(kind, seed=index), x, start)
        if kind == "gm" and index < nfe - 1:
            policy = policy.with_temperature(0.5)
        expected = rollout(policy, x, start, end)
        x = scheduler.step(output_of(kind, seed=index), timestep, x).prev_sample
        torch.testing.assert_close(x, expected)


def test_automatic_temperature_grows_with_the_evaluations() -> None:
    assert [final_temperature("auto", nfe) for nfe in (1, 4, 8, 20)] == pytest.approx([0.0, 0.3, 0.7, 1.0])
    assert final_temperature(0.5, 4) == 0.5


def test_a_mixture_is_sampled_as_it_is_unless_a_temperature_is_given() -> None:
    x, taken = torch.randn(4, 2, 3, 5, generator=seeded(9)), []
    for options in ({}, {"temperature": 1.0}, {"temperature": "auto"}):
        scheduler = PolicyScheduler("gm", 3, **options)
        scheduler.set_timesteps(2)
        taken.append(scheduler.step(output_of(), scheduler.timesteps[0], x).prev_sample)
    assert torch.equal(taken[0], taken[1]) and not torch.allclose(taken[0], taken[2])


def test_sigmas_and_mu_of_a_pipeline_do_not_move_the_grid() -> None:
    ours, theirs = (PolicyScheduler("gm", 3, shift=3.2) for _ in range(2))
    ours.set_timesteps(4)
    theirs.set_timesteps(sigmas=[1.0, 0.7, 0.5, 0.2], mu=0.9)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)


@pytest.mark.parametrize("stochastic", [0.5, math.inf])
def test_each_image_is_renoised_from_its_own_generator(stochastic: float) -> None:
    def run(rows: slice) -> Tensor:
        scheduler = PolicyScheduler("gm", 3, stochastic=stochastic)
        scheduler.set_timesteps(3)
        x = torch.randn(4, 2, 3, 5, generator=seeded(9))[rows]
        generators = [seeded(seed) for seed in range(4)[rows]]
        for index, timestep in enumerate(scheduler.timesteps):
            x = scheduler.step(output_of(seed=index)[rows], timestep, x, generator=generators, return_dict=False)[0]
        return x

    torch.testing.assert_close(run(slice(1, 3)), run(slice(0, 4))[1:3])
    again = run(slice(0, 4))
    scheduler = PolicyScheduler("gm", 3)
    scheduler.set_timesteps(3)
    x = torch.randn(4, 2, 3, 5, generator=seeded(9))
    for index, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(output_of(seed=index), timestep, x).prev_sample
    assert (again - x).abs().max() > 0.05


def test_full_renoising_rolls_to_clean_data_and_back() -> None:
    """h = inf: the policy is rolled to sigma 0, then noise of the next level is put on it."""
    scheduler = PolicyScheduler("dx", 1, stochastic=math.inf)
    scheduler.set_timesteps(2)
    x = torch.randn(3, 1, 2, 2, generator=seeded())
    target = 0.25
    output = x - target
    after = scheduler.step(output, scheduler.timesteps[0], x, generator=[seeded(seed) for seed in range(3)]).prev_sample
    noise = torch.stack([torch.randn(1, 1, 2, 2, generator=seeded(seed))[0] for seed in range(3)])
    torch.testing.assert_close(after, 0.5 * target + 0.5 * noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stochastic", [0.5, math.inf])
@pytest.mark.parametrize(
    ("patch", "dtype", "near"),
    [(None, torch.float64, 1e-12), (None, torch.float32, 2e-6), (4, torch.float32, 2e-6), (4, torch.bfloat16, 1e-2)],
)
@pytest.mark.parametrize("generators", [[seeded(0), seeded(1)], [seeded(7)], seeded(7)], ids=["each", "first", "one"])
def test_a_stochastic_step_rolls_further_down_and_back_up_by_noise(
    stochastic: float, patch: int | None, dtype: torch.dtype, near: float, generators
) -> None:
    """The formula of :func:`~piflow_cli.core.timegrid.renoising` for a policy whose clean data is known."""
    scheduler = PolicyScheduler("dx", 1, patch=patch, stochastic=stochastic)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(1)
    source, e, data = 0.75, 0.5, -0.5
    x = torch.randn((2, 3, 4, 4) if patch is None else (2, 6, 3 * patch), generator=seeded(3)).to(dtype)
    memory = (e * (1 - source) / (source * (1 - e))) ** (stochastic**2)
    rolled = data + (x.double() - data) * e * memory / (1 - e + e * memory) / source
    several = isinstance(generators, list) and len(generators) == 2
    seeds = [seeded(0), seeded(1)] if several else [seeded(7)]
    shape, kept = (1 if several else 2, *x.shape[1:]), torch.promote_types(dtype, torch.float32)
    noise = torch.cat([torch.randn(shape, generator=one, dtype=kept) for one in seeds])
    output = (x - data) / source
    after = scheduler.step(output, scheduler.timesteps[1], x, generator=again(generators)).prev_sample
    assert after.dtype == dtype and after.is_contiguous()
    expected = (1 - e + e * memory) * rolled + e * math.sqrt(1 - memory**2) * noise
    torch.testing.assert_close(after.double(), expected.double(), rtol=near, atol=near)


def again(generators):
    """The same generators from their beginnings: each case of a test begins there."""
    for one in generators if isinstance(generators, list) else [generators]:
        one.manual_seed(one.initial_seed())
    return generators


def test_a_stochastic_step_hands_gradients_on() -> None:
    scheduler = PolicyScheduler("dx", 1, patch=4, stochastic=math.inf)
    scheduler.set_timesteps(2)
    x = torch.randn(1, 3, 8, generator=seeded())
    output = torch.randn(1, 3, 8, generator=seeded(1)).requires_grad_()
    scheduler.step(output, scheduler.timesteps[0], x, generator=seeded()).prev_sample.sum().backward()
    # The clean data x - output is scaled by 1 - e, which is a half.
    torch.testing.assert_close(output.grad, torch.full_like(output, -0.5), rtol=1e-3, atol=1e-3)


def test_fewer_generators_than_samples_are_refused() -> None:
    scheduler = PolicyScheduler("dx", 1, stochastic=math.inf)
    scheduler.set_timesteps(2)
    x = torch.zeros(3, 1, 2, 2)
    with pytest.raises(IndexError):
        scheduler.step(x, scheduler.timesteps[0], x, generator=[seeded(0), seeded(1)])


def test_a_saved_scheduler_comes_back_with_its_settings(tmp_path) -> None:
    scheduler = PolicyScheduler(
        "dx-poly", 5, segment=0.4, shift=3.2, final_step_scale=0.5, temperature=0.7, stochastic=0.5
    )
    scheduler.save_pretrained(tmp_path)
    again = PolicyScheduler.from_pretrained(tmp_path)
    assert dict(again.config) | {"_use_default_values": None} == dict(scheduler.config) | {"_use_default_values": None}
    assert again.decoder == scheduler.decoder


def test_image_to_image_pipelines_may_start_on_the_way() -> None:
    scheduler = PolicyScheduler("dx", 1)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(2)
    image, noise = torch.randn(2, 1, 1, 2, 2, generator=seeded()).unbind()
    x = scheduler.scale_noise(image, scheduler.timesteps[2:3], noise)
    torch.testing.assert_close(x, 0.5 * image + 0.5 * noise)
    for timestep in scheduler.timesteps[2:]:
        sigma = timestep / 1000
        x = scheduler.step((x - image) / sigma, timestep, x).prev_sample
    torch.testing.assert_close(x, image, rtol=1e-4, atol=1e-4)
