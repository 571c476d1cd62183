"""Class-conditional teachers on labelled pictures and latents: every source gives the
same posteriors, a batch draws from them."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from helpers import seeded
from interruptions import interrupted_at
from picture_files import put, shard
from PIL import Image
from safetensors.torch import load_file, save_file
from sit import CLASSES, SIZE
from tiny_imagenet import tiny_imagenet
from torch import Tensor

from piflow_cli.console import Console
from piflow_cli.core import imitation
from piflow_cli.data.batches import LabelledImages, TrainingData, batch_indices
from piflow_cli.data.buckets import centre_crop
from piflow_cli.data.labelled_data import LabelledLatents, open_labelled
from piflow_cli.data.labelled_images import open_latents
from piflow_cli.errors import RunError, UsageError
from piflow_cli.presets.resolve import resolve
from piflow_cli.teachers import family_of
from piflow_cli.teachers.class_conditional import ClassConditionalFamily
from piflow_cli.teachers.latents import VaeEncoder
from piflow_cli.training import loop, run

SIDE, COUNT = 2 * SIZE, 10
NAMES = ("n01", "n02", "n03", "n10", "n2")


@pytest.fixture(scope="module")
def preset(tmp_path_factory, tiny_vae) -> Path:
    return tiny_imagenet(tmp_path_factory.mktemp("imagenet"), tiny_vae, output={"preview_every": 0})


@pytest.fixture(autouse=True)
def setting(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ClassConditionalFamily, "beside_steps", 4)
    for name in ("save_comparison", "draw_loss"):
        monkeypatch.setattr(run, name, lambda *arguments: None)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Ten pictures (10, 3, 16, 16) uint8, the side that the teacher's latents are of;
    their labels are their numbers modulo five."""
    return torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=seeded(), dtype=torch.uint8)


LABELS = torch.arange(COUNT) % CLASSES


def png(picture: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def by_sub_folder(folder: Path, pixels: Tensor) -> Path:
    put(folder, {f"{NAMES[number % CLASSES]}/{number}.PNG": png(picture) for number, picture in enumerate(pixels)})
    return folder


def by_metadata(folder: Path, pixels: Tensor) -> Path:
    rows = [json.dumps({"file_name": f"{number}.png", "label": number % CLASSES}) for number in range(COUNT)]
    put(
        folder,
        {f"{number}.png": png(picture) for number, picture in enumerate(pixels)} | {"metadata.jsonl": "\n".join(rows)},
    )
    return folder


def by_csv(folder: Path, pixels: Tensor) -> Path:
    rows = ["file_name,label", *(f"{number}.png,{number % CLASSES}" for number in range(COUNT))]
    put(
        folder,
        {f"{number}.png": png(picture) for number, picture in enumerate(pixels)} | {"metadata.csv": "\n".join(rows)},
    )
    return folder


def by_cls(folder: Path, pixels: Tensor) -> Path:
    folder.mkdir()
    for half in range(2):
        members = {}
        for number in range(half, COUNT, 2):
            members |= {
                f"n.0{number}.png": png(pixels[number]),
                f"n.0{number}.cls": str(number % CLASSES),
                f"n.0{number}.txt": "a fish",
            }
        shard(folder / f"{half}.tar", members)
    return folder


def by_json(folder: Path, pixels: Tensor) -> Path:
    folder.mkdir()
    members = {}
    for number, picture in enumerate(pixels):
        members |= {
            f"{number}.png": png(picture),
            f"{number}.json": json.dumps({"label": number % CLASSES, "text": "a fish"}),
        }
    shard(folder / "a.tar", members)
    return folder / "a.tar"


def by_tensors(folder: Path, pixels: Tensor) -> Path:
    folder.mkdir()
    save_file({"images": pixels, "labels": LABELS}, folder / "images.safetensors")
    return folder / "images.safetensors"


SOURCES = (by_sub_folder, by_metadata, by_csv, by_cls, by_json, by_tensors)


def opened(path: Path, preset: Path, *options: str) -> TrainingData:
    resolved = resolve(preset, None, [*options, f"data.images={json.dumps(str(path))}"], {})
    return open_labelled(
        resolved,
        family_of("dit"),
        lambda labels: {"class_labels": torch.tensor(labels)},
        Accelerator(cpu=True),
        Console(),
    )


@torch.no_grad()
def posteriors(tiny_vae: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the states of each picture, by the VAE itself and its scale of 0.18215."""
    vae = AutoencoderKL.from_pretrained(tiny_vae).eval()
    found = vae.encode(pixels.float() / 127.5 - 1).latent_dist
    return found.mean * 0.18215, found.std * 0.18215


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_source_of_pictures_gives_the_posteriors_of_the_vae(source, preset, pixels, tiny_vae, tmp_path):
    latents = opened(source(tmp_path / "data", pixels), preset).latents
    mean, std = latents.read(torch.arange(COUNT))
    expected_mean, expected_std = posteriors(tiny_vae, pixels)
    used = set()
    for row in range(COUNT):
        number = int((expected_mean - mean[row]).abs().flatten(1).amax(dim=1).argmin())
        torch.testing.assert_close(mean[row], expected_mean[number], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(std[row], expected_std[number], rtol=1e-3, atol=1e-6)
        assert latents.labels[row] == number % CLASSES
        used.add(number)
    assert used == set(range(COUNT))


def test_pictures_are_encoded_once_and_never_where_the_cache_is_complete(preset, pixels, tmp_path, monkeypatch, capsys):
    folder = by_sub_folder(tmp_path / "data", pixels)
    first = opened(folder, preset)
    assert "0 found in" in (said := capsys.readouterr().err) and "10 to encode" in said
    monkeypatch.setattr(VaeEncoder, "encode_images", lambda *given: pytest.fail("encoded again"))
    again = opened(folder, preset)
    assert again.fingerprint == first.fingerprint and torch.equal(again.batch(0, 3, 4).x_0, first.batch(0, 3, 4).x_0)
    assert "10 found in" in (said := capsys.readouterr().err) and "0 to encode" in said
    by_metadata(tmp_path / "same", pixels)
    opened(tmp_path / "same", preset)
    assert " 0 to encode" in capsys.readouterr().err


def test_processes_share_the_encoding(preset, pixels, tmp_path, monkeypatch):
    """One after the other, so that each finds what the earlier ones wrote: nothing is left out or encoded twice."""
    folder, encoded = by_sub_folder(tmp_path / "data", pixels), []
    encode = VaeEncoder.encode_images
    monkeypatch.setattr(
        VaeEncoder, "encode_images", lambda self, images: encoded.append(len(images)) or encode(self, images)
    )
    resolved = resolve(preset, None, [f"data.images={json.dumps(str(folder))}"], {})
    for index in range(3):
        process = SimpleNamespace(
            process_index=index, num_processes=3, device=torch.device("cpu"), is_main_process=index == 0
        )
        told = partial(open_labelled, resolved, family_of("dit"), lambda labels: {"class_labels": torch.tensor(labels)})
        # Keys share the pictures out, and depend on where the VAE is: what is left for the last process may be none.
        try:
            data = told(process, Console())
        except RunError as error:
            assert "that other processes were to encode" in str(error) and index < 2 and sum(encoded) < COUNT
        else:
            assert sum(encoded) == COUNT
    assert sum(encoded) == COUNT and data.fingerprint == opened(folder, preset).fingerprint


def test_latents_are_drawn_by_seed_and_place(preset, pixels, tmp_path):
    data = opened(by_tensors(tmp_path / "data", pixels), preset)
    noise = []
    for place in range(60):
        batch = data.batch(3, place, COUNT)
        rows = [int((data.latents.labels == label).nonzero()[0]) for label in batch.conditioning["class_labels"]]
        assert sorted(data.latents.labels[rows].tolist()) == sorted(LABELS.tolist()) and batch.shape == (
            COUNT,
            4,
            SIZE,
            SIZE,
        )
        assert torch.equal(batch.x_0, data.batch(3, place, COUNT).x_0)
        noise.append(batch.x_0)
    assert not torch.equal(noise[0], data.batch(4, 0, COUNT).x_0)
    # Over many draws a picture has its posterior's mean and standard deviation.
    mean, std = data.latents.read(torch.arange(COUNT))
    draws = torch.stack([data.batch(0, place, 1).x_0[0] for place in range(1000)])
    assert abs(((draws.mean(dim=0) - mean.mean(dim=0)) / std.mean(dim=0)).mean()) < 0.5
    (tmp_path / "one").mkdir()
    save_file({"images": pixels[:1], "labels": LABELS[:1]}, tmp_path / "one" / "i.safetensors")
    one = opened(tmp_path / "one" / "i.safetensors", preset)
    mean, std = one.latents.read(torch.tensor([0]))
    z = torch.stack([(one.batch(0, place, 1).x_0 - mean) / std for place in range(200)])
    assert abs(z.mean()) < 4 / z.numel() ** 0.5 and abs(z.std() - 1) < 4 / (2 * z.numel()) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_latents_of_a_file_are_used_as_they_are_or_drawn(preset, tmp_path, dtype):
    mean, std = (torch.randn(COUNT, 4, SIZE, SIZE, generator=seeded(seed)).to(dtype) for seed in (1, 2))
    path = tmp_path / "l.safetensors"
    save_file({"latents": mean, "labels": LABELS}, path, {"scale": "0.5"})
    data = opened(path, preset)
    batch = data.batch(0, 0, COUNT)
    order = [int((0.5 * mean.float() - row).abs().flatten(1).amax(dim=1).argmin()) for row in batch.x_0]
    assert (
        torch.equal(batch.x_0, 0.5 * mean.float()[order])
        and batch.conditioning["class_labels"].tolist() == LABELS[order].tolist()
    )
    save_file({"mean": mean, "std": std.abs(), "labels": LABELS}, path)
    drawn = opened(path, preset)
    assert drawn.fingerprint != data.fingerprint
    z = torch.cat(
        [
            (drawn.batch(0, place, COUNT).x_0 - mean.float()[drawn_order(0, place)])
            / std.float().abs()[drawn_order(0, place)]
            for place in range(20)
        ]
    )
    assert abs(z.mean()) < 4 / z.numel() ** 0.5 and abs(z.std() - 1) < 0.02


def drawn_order(seed: int, place: int) -> Tensor:
    return batch_indices(COUNT, seed, place * COUNT, COUNT)


def test_a_file_larger_than_the_memory_is_read_row_by_row(tmp_path):
    """A terabyte of latents that the disk does not hold: all but the header and the first row is a hole."""
    rows, width = 1 << 25, 4 * 32 * 32 * 4
    header = {"labels": {"dtype": "U8", "shape": [rows], "data_offsets": [0, rows]}}
    begin = rows
    for name in ("mean", "std"):
        header[name] = {"dtype": "F32", "shape": [rows, 4, 32, 32], "data_offsets": [begin, begin + rows * width]}
        begin += rows * width
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(rows, io.SEEK_CUR)
        file.write(torch.full((4, 32, 32), 2.0).numpy().tobytes())
        file.truncate(8 + len(text) + begin)
    latents = open_latents(path)
    mean, std = latents.read(torch.tensor([0, rows - 1]))
    assert latents.shape == (4, 32, 32) and mean[0].unique().tolist() == [2.0] and not mean[1].any() and not std.any()


def test_pixels_of_colour_for_a_teacher_of_pixels(tiny_teacher, tmp_path):
    images = torch.randint(0, 256, (6, 1, 4, 4), generator=seeded(), dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(6) % 3}, tmp_path / "i.safetensors")
    data = opened(tmp_path / "i.safetensors", tiny_teacher)
    assert isinstance(data, LabelledImages)
    torch.testing.assert_close(data.images, images.float() / 127.5 - 1)
    save_file(
        {"images": images.expand(-1, 3, -1, -1).contiguous(), "labels": torch.arange(6) % 3}, tmp_path / "i.safetensors"
    )
    with pytest.raises(UsageError, match=r"pictures of \(3, 4, 4\), and the teacher's are \(1, 4, 4\)"):
        opened(tmp_path / "i.safetensors", tiny_teacher)


def test_grey_tensors_with_a_white_value_are_encoded_as_grey_pictures(preset, tiny_vae, tmp_path):
    grey = torch.randint(0, 17, (3, SIDE, SIDE), generator=seeded(), dtype=torch.uint8)
    save_file({"images": grey, "labels": torch.arange(3)}, tmp_path / "g.safetensors", {"levels": "16"})
    mean, _ = opened(tmp_path / "g.safetensors", preset).latents.read(torch.arange(3))
    # Pillow rounds v * 255 / 16 to whole numbers.
    expected, _ = posteriors(tiny_vae, (grey.float() * 255 / 16).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(mean, expected, rtol=0.02, atol=2e-3)


def test_a_run_on_pictures_goes_on_bit_for_bit_and_is_data_dependent(cli, preset, pixels, tmp_path, monkeypatch):
    losses = []
    monkeypatch.setattr(
        loop,
        "data_dependent_loss",
        lambda s, t, x_0, *rest: losses.append(x_0) or imitation.data_dependent_loss(s, t, x_0, *rest),
    )
    command = ["distill", "--teacher", str(preset), "--data", str(by_sub_folder(tmp_path / "data", pixels)), "--quiet"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    outcome = cli(*command, "--output", str(whole))
    assert (outcome.code, outcome.err) == (0, "")
    assert [x_0.shape for x_0 in losses] == [(8, 4, SIZE, SIZE)] * 4
    monkeypatch.setattr(VaeEncoder, "encode_images", lambda *given: pytest.fail("encoded again"))
    with monkeypatch.context() as patch:
        patch.setattr(run, "train_step", interrupted_at(1))
        assert cli(*command, "--output", str(parts)).code == 130
    assert cli(*command, "--output", str(parts)).code == 0
    left, right = (load_file(folder / "checkpoints" / "0000004" / "training.safetensors") for folder in (whole, parts))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    # Another picture is another set of data.
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put(tmp_path / "data", {"n01/more.png": png(255 - pixels[0])})
    outcome = cli(*command, "--output", str(parts))
    assert outcome.code == 2 and "the data are no longer those" in outcome.err


def test_a_run_on_a_cache_with_a_flipped_byte_makes_it_anew_and_finishes(cli, preset, pixels, tmp_path):
    command = ["distill", "--teacher", str(preset), "--data", str(by_sub_folder(tmp_path / "data", pixels))]
    assert cli(*command, "--output", str(tmp_path / "whole")).code == 0
    (shard,) = (tmp_path / "cache").rglob("latents/*.safetensors")
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    outcome = cli(*command, "--output", str(tmp_path / "again"))
    said = " ".join(outcome.err.split())
    assert (
        outcome.code == 0
        and f"the cache shard {shard} was damaged; it is removed and made anew" in said
        and f"{COUNT} to encode" in said
    )
    left, right = (
        load_file(tmp_path / name / "checkpoints" / "0000004" / "training.safetensors") for name in ("whole", "again")
    )
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def faulty(name: str, folder: Path, pixels: Tensor) -> Path:
    """A source with the fault ``name``."""
    if name in ("loose", "missing class", "extra class"):
        by_sub_folder(folder, pixels)
        if name == "loose":
            put(folder, {"a.png": png(pixels[0])})
        elif name == "extra class":
            (folder / "n99").mkdir()
        else:
            for path in sorted((folder / "n01").iterdir()):
                path.unlink()
            (folder / "n01").rmdir()
        return folder
    if name in ("label out of range", "no label in metadata", "a label that is none", "listed but missing"):
        row = {
            "label out of range": {"file_name": "0.png", "label": CLASSES},
            "no label in metadata": {"file_name": "0.png", "text": "a fish"},
            "a label that is none": {"file_name": "0.png", "label": 1.5},
            "listed but missing": {"file_name": "nowhere.png", "label": 1},
        }[name]
        put(folder, {"0.png": png(pixels[0]), "metadata.jsonl": json.dumps(row)})
        return folder
    folder.mkdir()
    path = folder / "data.safetensors"
    latents = torch.zeros(COUNT, 4, SIZE, SIZE)
    latents[7, 1, 2, 3] = torch.nan
    tensors = {
        "empty": None,
        "float images": {"images": pixels.float(), "labels": LABELS},
        "five channels": {"images": pixels[:, [0, 1, 2, 0, 1]], "labels": LABELS},
        "no labels": {"images": pixels},
        "labels of fractions": {"latents": latents, "labels": LABELS.float()},
        "too few labels": {"latents": latents, "labels": LABELS[:3]},
        "other latents": {"latents": latents[:, :, :4].contiguous(), "labels": LABELS},
        "labels out of range": {"latents": torch.zeros_like(latents), "labels": LABELS + 1},
        "mean without std": {"mean": latents, "labels": LABELS},
        "not finite": {"latents": latents, "labels": LABELS},
    }[name]
    if tensors is None:
        return folder
    save_file(tensors, path)
    return path


FAULTS = {
    "loose": "a.png lies in no sub-folder",
    "missing class": "has 4 sub-folders, and the teacher knows 5 classes",
    "extra class": "has 6 sub-folders, and the teacher knows 5 classes",
    "label out of range": "0.png has the label 5, and the teacher knows the classes 0 to 4",
    "no label in metadata": "label is missing",
    "a label that is none": "label is no whole number",
    "listed but missing": "there is no file nowhere.png",
    "empty": "has 0 sub-folders",
    "float images": "of torch.float32",
    "five channels": "are not (N, H, W) or (N, C, H, W)",
    "no labels": "no labelled pictures or latents",
    "labels of fractions": "are not N whole numbers",
    "too few labels": "are no latents of 3 labels",
    "other latents": "holds latents of (4, 4, 8), and the teacher's states are (4, 8, 8)",
    "labels out of range": "row 4 has the label 5",
    "mean without std": "holds labels, mean, which are no labelled pictures or latents",
    "not finite": "the latents in row 7 are not finite",
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_trained_on_is_one_line_before_anything_is_written(cli, preset, pixels, tmp_path, name):
    source = faulty(name, tmp_path / "data", pixels)
    outcome = cli(
        "distill", "--teacher", str(preset), "--data", str(source), "--quiet", "--output", str(tmp_path / "out")
    )
    assert outcome.code == (1 if name == "not finite" else 2) and FAULTS[name] in outcome.err.replace("\n", " "), (
        outcome.err
    )
    assert len(outcome.err.splitlines()) == 2 and not (tmp_path / "out").exists()


def test_pictures_that_cannot_be_used_are_counted_and_named(preset, pixels, tmp_path, capsys):
    folder = by_metadata(tmp_path / "data", pixels)
    put(folder, {"broken.png": b"no picture", "unlisted.png": png(pixels[0])})
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"file_name": "broken.png", "label": 1}))
    data = opened(folder, preset)
    assert isinstance(data, LabelledLatents) and len(data.latents.labels) == COUNT and data.left_out == 2
    assert (
        "skipped 2 of the pictures: 1 unreadable (broken.png: not a picture), 1 without a label (unlisted.png)"
        in capsys.readouterr().err.replace("\n", " ")
    )


def test_a_vae_must_be_named_for_pictures_of_a_teacher_of_latents(preset, pixels, tmp_path):
    with pytest.raises(UsageError):
        opened(by_sub_folder(tmp_path / "data", pixels), preset, "teacher.vae=null")


def test_latents_in_a_damaged_file_are_named(preset, tmp_path):
    path = tmp_path / "l.safetensors"
    save_file({"latents": torch.zeros(COUNT, 4, SIZE, SIZE), "labels": LABELS}, path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match="is corrupt or cut short"):
        opened(path, preset)


def picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def cropped(values: np.ndarray, side: int) -> np.ndarray:
    return ((centre_crop(picture(values), side).permute(1, 2, 0).numpy() + 1) * 127.5).round()


@pytest.mark.parametrize("size", [(1, 4001), (4000, 2)])
def test_a_thin_picture_is_not_scaled_up_whole(monkeypatch, size: tuple[int, int]) -> None:
    scaled: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def noted(picture: Image.Image, to: tuple[int, int], *how: object) -> Image.Image:
        scaled.append(to)
        return resize(picture, to, *how)

    monkeypatch.setattr(Image.Image, "resize", noted)
    middle = Image.new("RGB", size, "white")
    middle.paste("black", (size[0] // 2, size[1] // 2, size[0] // 2 + 1, size[1] // 2 + 1))
    found = centre_crop(middle, 8)
    assert found.shape == (3, 8, 8) and max(max(to) for to in scaled) <= 8 * 34
    # What is in the middle stays there.
    assert found.amin() < -0.9


def test_a_picture_is_cut_as_adm_cuts_it():
    """Its size as it is; the middle of the longer side; twice the size averaged by
    four; a number in between scaled bicubically."""
    random = np.random.default_rng(0)
    square = random.integers(0, 256, (8, 8, 3))
    assert (cropped(square, 8) == square).all()
    wide = random.integers(0, 256, (8, 13, 3))
    assert (cropped(wide, 8) == wide[:, 2:10]).all()
    tall = random.integers(0, 256, (11, 8, 3))
    assert (cropped(tall, 8) == tall[1:9]).all()
    double = random.integers(0, 256, (16, 16, 3))
    # Pillow rounds once for the rows and once for the columns.
    assert np.abs(cropped(double, 8) - double.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))).max() <= 1
    between = random.integers(0, 256, (12, 12, 3))
    assert (cropped(between, 8) == np.asarray(picture(between).resize((8, 8), Image.Resampling.BICUBIC))).all()
