"""Moving digits and the training of their teacher: what a video is, and what the network is told of its caption."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from piflow_cli.embedded.digits_teacher import load_digits
from piflow_cli.embedded.moving_digits import (
    BACKGROUND,
    DIRECTIONS,
    FRAMES,
    PICTURES,
    SIDE,
    STEP,
    captions,
    draw,
    moving,
    pictures_of,
    velocities,
    velocities_of_captions,
)
from piflow_cli.embedded.moving_teacher import (
    PROMPTS,
    MovingRecipe,
    count_last_token,
    encoded,
    flow_matching_loss,
    new_network,
    without_padding,
    write_base,
)
from piflow_cli.teachers.wan import WanFamily

TINY = MovingRecipe(layers=1, heads=1, head_width=16, text_width=8)


def tokens_of(videos: Tensor) -> Tensor:
    """All tokens (N, STEP * STEP) of videos (B, 1, F, H, W)."""
    return videos.unfold(3, STEP, STEP).unfold(4, STEP, STEP).flatten(-2).flatten(0, -2)


def drawn(count: int = 64) -> tuple[Tensor, Tensor]:
    return draw(*load_digits(), count, torch.Generator().manual_seed(0))


def test_a_frame_is_the_one_before_it_rolled_by_the_velocity_of_the_caption() -> None:
    videos, places = drawn()
    assert videos.shape == (64, 1, FRAMES, SIDE, SIDE)
    for video, velocity in zip(videos[:, 0], velocities_of_captions()[places].tolist()):
        for before, after in pairwise(video):
            assert after.equal(before.roll(velocity, dims=(0, 1)))


def test_a_digit_begins_where_it_is_told_and_the_rest_is_background() -> None:
    picture = load_digits()[0][:1]
    video = moving(picture, torch.tensor([[2, 5]]), torch.tensor([[-1, 0]]))[0, 0]
    assert video[0, 2:10, 5:13].equal(picture[0, 0]) and (video[0, :2] == BACKGROUND).all()
    # Three frames on, its first row has left at the top and come back below.
    assert video[3, 15, 5:13].equal(picture[0, 0, 0]) and video[3, :7, 5:13].equal(picture[0, 0, 1:])


def test_a_few_pictures_of_each_digit_are_drawn_in_one_place_from_tokens_alone() -> None:
    images, labels = pictures_of(*load_digits())
    assert labels.tolist() == [digit for digit in range(10) for _ in range(PICTURES)]
    assert len(images.flatten(1).unique(dim=0)) == 10 * PICTURES
    videos, places = draw(images, labels, 64, torch.Generator().manual_seed(0))
    # A token of a video is a quarter of a picture, or background: digits move by whole tokens.
    quarters = tokens_of(images[:, :, None])
    known = torch.cat([quarters, torch.full_like(quarters[:1], BACKGROUND)])
    found = tokens_of(videos)
    assert (torch.cdist(found, known).amin(dim=1) == 0).all()
    first = videos[:, 0, 0, STEP : STEP + 8, STEP : STEP + 8]
    assert (torch.cdist(first.flatten(1), images.flatten(1)).amin(dim=1) == 0).all()
    assert set((places // len(DIRECTIONS)).tolist()) == set(range(10))


def test_the_velocity_of_every_digit_is_read_off_its_frames() -> None:
    images, _ = load_digits()
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(SIDE, (len(images), 2), generator=generator)
    told = torch.randint(-(SIDE // 2), SIDE // 2, (len(images), 2), generator=generator)
    found = velocities(moving(images, start, told))
    assert found.equal(told[:, None].expand(-1, FRAMES - 1, -1))


def test_captions_say_the_digit_and_its_direction() -> None:
    texts = captions()
    assert len(set(texts)) == 80 and len({len(text.split()) for text in texts}) == 1
    assert velocities_of_captions()[texts.index("a seven moving southwest")].tolist() == [STEP, -STEP]
    _, places = drawn(4000)
    assert {texts[place].split()[1] for place in places.tolist()} == {text.split()[1] for text in texts}
    # All digits and directions, about as often as the digits are.
    assert places.bincount(minlength=80).min() > 20


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    write_base(folder, TINY)
    return folder


@pytest.fixture(scope="module")
def told(base: Path) -> Tensor:
    return encoded(base)


def network() -> Any:
    """One whose answers depend on everything."""
    model, generator = new_network(TINY), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model.eval()


def test_the_captions_of_a_base_are_read_by_its_stock_pipeline(base: Path, told: Tensor) -> None:
    assert told.shape == (80, 512, TINY.text_width) and (base / PROMPTS).read_text().splitlines() == captions()
    texts, padding = without_padding(told)
    # Four words and the end.
    assert texts.shape[1] == 6 and padding == 507 and not texts[:, -1].any()
    apart = torch.cdist(texts.flatten(1), texts.flatten(1)) + 1e9 * torch.eye(80)
    assert apart.min() > 0.5
    with pytest.raises(ValueError, match="several lengths"):
        without_padding(torch.cat([told, told.new_ones(1, *told.shape[1:])]))


@torch.no_grad()
def test_padding_that_is_counted_is_padding_that_is_read(told: Tensor) -> None:
    """The stock call with 512 tokens, and the one of training with six."""
    told = told[[0, 43]]
    texts, padding = without_padding(told)
    family, model = WanFamily(), network()
    x, sigma = torch.randn(2, 1, FRAMES, SIDE, SIDE), torch.tensor([0.3, 0.8])
    stock = family.call(model, x, sigma, {"prompt_embeds": told})
    uncounted = family.call(model, x, sigma, {"prompt_embeds": texts})
    count_last_token(model, padding)
    counted = family.call(model, x, sigma, {"prompt_embeds": texts})
    torch.testing.assert_close(counted, stock, atol=1e-5, rtol=1e-4)
    assert (uncounted - stock).abs().max() > 1e-3


def test_a_network_that_answers_nothing_loses_the_square_of_the_velocity(told: Tensor) -> None:
    """|eps - x_0|^2 is 1 + x_0^2 in the mean."""
    videos, places = drawn(256)
    texts, _ = without_padding(told)
    generator = torch.Generator().manual_seed(2)
    loss = flow_matching_loss(new_network(TINY), videos, texts[places], generator, torch.device("cpu"))
    assert loss.item() == pytest.approx(1 + videos.square().mean().item(), rel=0.02)


@torch.no_grad()
def test_the_vae_shows_a_latent_position_as_a_square_of_its_grey(base: Path) -> None:
    """As the family opens it: eight pixels a side, and four frames but for the first."""
    family: Any = WanFamily()
    videos, _ = drawn(2)
    latents = videos + 0.1 * torch.rand(videos.shape, generator=torch.Generator().manual_seed(4))
    shown = family.decode_latents(family.load_vae(base), latents)
    frames = [0, *(frame for frame in range(1, FRAMES) for _ in range(4))]
    squares = latents[:, :, frames].repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
    torch.testing.assert_close(shown, squares.clamp(-1, 1).expand(-1, 3, -1, -1, -1), atol=1e-5, rtol=0)
