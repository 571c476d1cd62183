from __future__ import annotations

import torch

from piflow_cli.teachers.encoders import EncoderFactory, negative_of, with_negative


def test_the_empty_prompt_rides_along_and_comes_back():
    conditioning = {"embeds": torch.ones(2, 3, 4), "mask": torch.ones(2, 3)}
    negative = {"embeds": torch.zeros(2, 1, 4), "mask": torch.zeros(2, 1)}
    together = with_negative(conditioning, negative)
    assert together.keys() == {"embeds", "mask", "negative_embeds", "negative_mask"}
    assert all(together[name] is conditioning[name] for name in conditioning)
    assert negative_of(together) == negative and negative_of(conditioning) == {}


def test_the_shape_of_latents_follows_from_the_pixels():
    def no_weights(device):
        raise AssertionError("asking for a shape loads nothing")

    factory = EncoderFactory({"model": "m"}, latent_channels=16, downsampling=8, size_multiple=16, open=no_weights)
    assert factory.latent_shape(width=832, height=1216) == (16, 152, 104)
