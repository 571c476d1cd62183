from __future__ import annotations

import json
import math
from dataclasses import fields
from inspect import signature
from pathlib import Path

DEFAULTS = {
    "student": "runs/digits",
    "teacher": None,
    "base": None,
    "vae": None,
    "labels": None,
    "seeds": tuple(range(64)),
    "steps": None,
    "substeps": None,
    "temperature": None,
    "stochastic": 0.0,
    "output": Path("samples/digits"),
    "grid": True,
    "metadata": True,
    "device": "auto",
    "batch_size": 64,
}


def test_sample_without_options(cli, requests):
    assert cli("sample", "runs/digits").out == "images  64\n"
    (request,) = requests
    assert vars(request) == DEFAULTS


def test_the_library_asks_for_just_that():
    from piflow_cli.sampling import SampleRequest, sample

    assert [field.name for field in fields(SampleRequest)] == list(DEFAULTS)
    assert list(signature(sample).parameters) == ["request", "console"]


def test_sample_hands_over_what_was_asked(cli, requests):
    arguments = (
        "--teacher digits --base b --vae v --labels 3,5-6 --seeds 7,0-1 --steps 128 --substeps 32 --temperature 0.3 --stochastic inf "
        "--output o --no-grid --no-metadata --device cpu --batch-size 5 --json"
    )
    outcome = cli("sample", *arguments.split())
    assert json.loads(outcome.out) == {"images": 3}
    (request,) = requests
    expected = (None, "digits", "b", "v", (3, 5, 6), (7, 0, 1), 128, 32, 0.3, math.inf, Path("o"), False, False, "cpu", 5)
    assert tuple(vars(request).values()) == expected


def test_num_images_counts_seeds_from_zero(cli, requests):
    cli("sample", "--teacher", "digits", "--num-images", "3", "--temperature", "auto")
    assert (requests[0].seeds, requests[0].temperature, requests[0].output) == (
        (0, 1, 2),
        "auto",
        Path("samples/digits-teacher"),
    )
