from __future__ import annotations

import hashlib
import json
import math
import runpy
import sys
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open

from piflow_cli.core.parameterisations.kinds import parameterisation_of
from piflow_cli.embedded.digits_diffusion import diffusion_loss, trained_levels
from piflow_cli.embedded.digits_teacher import (
    NUM_CLASSES,
    PROGRAM,
    TeacherRecipe,
    flow_matching_loss,
    learning_rate,
    load_digits,
    new_teacher,
    train,
)
from piflow_cli.presets.resolve import presets_root
from piflow_cli.teachers.dit_network import DiT

FOLDER = presets_root() / "digits"
WEIGHTS = FOLDER / "diffusion_pytorch_model.safetensors"
# sklearn/datasets/data/digits.csv of scikit-learn 1.9.1, unpacked.
OF_SCIKIT_LEARN = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
TINY = TeacherRecipe(iterations=3, batch_size=8)


@pytest.fixture(scope="module")
def teacher() -> DiT:
    return DiT.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    return load_digits()


def metadata(path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_data_are_the_1797_digits(digits):
    images, labels = digits
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_data_equal_those_of_scikit_learn(digits):
    """Written as its digits.csv is: 64 levels of 0 to 16 and the digit in a row."""
    images, labels = digits
    rows = torch.cat([(images.flatten(1) + 1) * 8, labels[:, None]], dim=1).tolist()
    written = "".join(",".join(f"{value:g}" for value in row) + "\n" for row in rows)
    assert hashlib.sha256(written.encode()).hexdigest() == OF_SCIKIT_LEARN


def test_data_and_weights_are_small_and_attributed():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6_000_000
    text = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for needed in ("Alpaydin", "Kaynak", "1998", "CC BY 4.0", "What was changed", PROGRAM):
        assert needed in text
    assert metadata(FOLDER / "images.safetensors")["license"] == "CC BY 4.0"


def test_the_weights_name_the_default_recipe_as_theirs():
    facts = metadata(WEIGHTS)
    assert facts["program"] == PROGRAM
    assert json.loads(facts["recipe"]) == asdict(TeacherRecipe())
    assert int(facts["iterations_done"]) == TeacherRecipe().iterations


def test_the_teacher_is_the_architecture_of_the_program(teacher):
    assert teacher.config["_class_name"] == "DiT"
    fresh = new_teacher()
    assert {key: teacher.config[key] for key in fresh.config if not key.startswith("_")} == {
        key: value for key, value in fresh.config.items() if not key.startswith("_")
    }
    assert all(parameter.dtype == torch.float32 for parameter in teacher.parameters())


def test_learning_rate_warms_up_and_ends_at_zero():
    recipe = TeacherRecipe(iterations=1000, lr=2.0, warmup=10)
    assert learning_rate(0, recipe) == pytest.approx(0.2)
    assert learning_rate(500, recipe) == pytest.approx(1.0)
    assert learning_rate(1000, recipe) == pytest.approx(0.0)


def test_the_target_is_noise_minus_data_and_labels_are_dropped(digits):
    images, labels = digits
    seen = {}

    def exact(x, sigma, given):
        seen.update(sigma=sigma, labels=given)
        return (x - images) / sigma[:, None, None, None]

    assert flow_matching_loss(exact, images, labels, 0.1, torch.Generator().manual_seed(0)).item() < 1e-5
    dropped = seen["labels"] == NUM_CLASSES
    # Binomial with 1797 draws: five standard deviations are 0.035.
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.035)
    assert torch.equal(seen["labels"][~dropped], labels[~dropped])
    assert torch.equal((seen["sigma"] * len(images)).floor().long(), torch.arange(len(images)))


@pytest.mark.parametrize("predicts", ["epsilon-linear", "v-linear", "edm"])
def test_who_knows_the_data_loses_nothing_and_levels_are_those_of_the_papers(predicts, digits):
    x_0, labels = digits[0][:3], digits[1][:3]
    row, uniform = parameterisation_of(predicts), torch.tensor([0.9999, 0.5, 0.1])
    noise, sigma = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)), trained_levels(row, uniform)
    spread = sigma.float()[:, None, None, None]
    a, b = 1 - spread, spread
    deviation, length = b / a, (a**2 + b**2).sqrt()
    c_skip, c_out = 0.25 / (deviation**2 + 0.25), 0.5 * deviation / (deviation**2 + 0.25).sqrt()
    right = {
        "epsilon-linear": noise,
        "v-linear": (a * noise - b * x_0) / length,
        "edm": (x_0 - c_skip * (x_0 + deviation * noise)) / c_out,
    }[predicts]

    def exact(told, time, given):
        scale = (deviation**2 + 0.25).rsqrt() * (x_0 + deviation * noise) if predicts == "edm" else None
        torch.testing.assert_close(told, (a * x_0 + b * noise) / length if scale is None else scale)
        torch.testing.assert_close(1000 * time.double(), row.timestep(sigma), rtol=1e-6, atol=1e-4)
        return right

    assert diffusion_loss(exact, x_0, labels, uniform, noise, row) < 1e-6
    if predicts == "edm":
        assert math.log(deviation[1].item()) == pytest.approx(-1.2)
    else:
        torch.testing.assert_close(row.timestep(sigma), torch.tensor([999.0, 500.0, 100.0], dtype=torch.float64))


def trained(recipe: TeacherRecipe, digits) -> dict[str, torch.Tensor]:
    states = []
    train(recipe, *digits, lambda ema, done, loss: states.append(ema.state_dict()), every=1000)
    (state,) = states
    return state


def test_training_is_reproduced_by_its_seed(digits):
    first, second, other = (trained(recipe, digits) for recipe in (TINY, TINY, replace(TINY, seed=1)))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_checkpoints_come_at_the_interval_and_at_the_end(digits):
    seen = []
    train(replace(TINY, iterations=5, batch_size=2), *digits, lambda ema, done, loss: seen.append(done), every=2)
    assert seen == [2, 4, 5]


# It is imported here too; a process of its own would take five times as long.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_program_runs_end_to_end(tmp_path, digits, monkeypatch):
    output = tmp_path / "teacher"
    options = ["--iterations", "3", "--batch-size", "8", "--threads", str(torch.get_num_threads())]
    _, _, module = PROGRAM.split()
    monkeypatch.setattr(sys, "argv", [module, "--output", str(output), *options])
    runpy.run_module(module, run_name="__main__")
    assert sorted(path.name for path in output.iterdir()) == ["config.json", WEIGHTS.name]
    assert json.loads(metadata(output / WEIGHTS.name)["recipe"]) == asdict(TINY)
    loaded = DiT.from_pretrained(output).state_dict()
    expected = trained(TINY, digits)
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


@torch.no_grad()
def generate(teacher: DiT, labels: torch.Tensor, steps: int) -> torch.Tensor:
    """Plain Euler steps, sigma from 1 to 0."""
    x = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for i in range(steps):
        x = x - teacher(x, torch.full((len(x),), 1 - i / steps), labels) / steps
    return x


def test_the_teacher_draws_the_digit_it_is_asked_for(teacher, digits):
    images, labels = digits
    means = torch.stack([images[labels == digit].mean(0).flatten() for digit in range(NUM_CLASSES)])
    asked = torch.arange(NUM_CLASSES).repeat(20)
    drawn = generate(teacher, asked, steps=16)
    # The nearest class mean names 90 % of the real digits rightly.
    correct = (torch.cdist(drawn.flatten(1), means).argmin(1) == asked).float().mean()
    assert correct > 0.85
    assert drawn.std() == pytest.approx(images.std().item(), rel=0.05)


def test_without_a_class_the_teacher_draws_every_digit(teacher, digits):
    images, labels = digits
    means = torch.stack([images[labels == digit].mean(0).flatten() for digit in range(NUM_CLASSES)])
    drawn = generate(teacher, torch.full((200,), NUM_CLASSES), steps=16)
    counts = torch.cdist(drawn.flatten(1), means).argmin(1).bincount(minlength=NUM_CLASSES)
    assert counts.min() >= 5
