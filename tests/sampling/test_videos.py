"""`piflow sample` of text-to-video students and teachers: frames, GIF and MP4 files, and what cannot be sampled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from text_students import saved_student
from tiny_vae import tiny_ti2v_vae, tiny_vae
from torch import Tensor
from zoo import LATENTS, ZOO, zoo_preset

import piflow_cli as piflow
from piflow_cli.errors import UsageError
from piflow_cli.reports.images import to_images
from piflow_cli.reports.videos import gif_of, mp4_of, strip_places
from piflow_cli.sampling import request as sampling_request
from piflow_cli.sampling.denoise import sample_student, seeded_generators, seeded_noise
from piflow_cli.students.open import find_student, open_student
from piflow_cli.teachers import family_of
from piflow_cli.teachers.decoders import decode_each
from piflow_cli.teachers.encoders import collate

ROW = ZOO["wan"]
SIZE = ["--height", "64", "--width", "96"]
FRAMES = 9
SHOWN = [0, 2, 4, 6, 8]
pytestmark = pytest.mark.usefixtures("text_encoders")


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    return saved_student(ROW, tmp_path_factory.mktemp("wan"))


@pytest.fixture
def without_av(monkeypatch) -> None:
    monkeypatch.setattr(sampling_request, "find_spec", lambda name: None)


def run(cli, *arguments: object) -> str:
    outcome = cli("sample", *map(str, arguments))
    assert outcome.code == 0, outcome.err
    return outcome.err


def cells(grid: Path, rows: int) -> np.ndarray:
    """The frames (rows, 5, 64, 96, 3) in a grid of videos, which keeps their values."""
    with Image.open(grid) as whole:
        pixels = np.asarray(whole).astype(int)
    return pixels.reshape(rows, 64, len(SHOWN), 96, 3).swapaxes(1, 2)


def frames(videos: Tensor) -> np.ndarray:
    """The frames of videos (B, 3, F, H, W) that a grid shows, as it has them."""
    assert videos.shape[2] == FRAMES
    return np.stack([[np.asarray(to_images(video[None, :, place])[0]) for place in SHOWN] for video in videos]).astype(
        int
    )


def test_a_video_is_the_one_that_training_previews(cli, wan: Path, tmp_path, without_av) -> None:
    """The pipeline's loop over its scheduler, and our own over the network, meet in the same frames."""
    err = run(
        cli,
        wan,
        "a fox",
        "cat",
        *SIZE,
        "--frames",
        FRAMES,
        "--seeds",
        "3,5",
        "--batch-size",
        4,
        "--output",
        tmp_path / "out",
    )
    assert 'videos are animated GIFs; for MP4 files too: pip install "piflow[video]"' in err
    student = open_student(wan)
    vae = student.family.load_vae(wan.parent / "base")
    given = collate([ROW.encode(6), ROW.encode(6), ROW.encode(4), ROW.encode(4)])
    noise = seeded_noise(seeded_generators([3, 5, 3, 5]), ROW.latents)
    with torch.no_grad():
        expected = frames(decode_each(student.family, vae, sample_student(student, noise, given)))
    assert abs(cells(tmp_path / "out" / "grid.png", 4) - expected).max() <= 1
    assert expected.std(axis=1).max() > 10
    stems = ["0000-000003", "0000-000005", "0001-000003", "0001-000005"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"{stem}.gif" for stem in stems),
        "grid.png",
    ]
    with Image.open(tmp_path / "out" / f"{stems[1]}.gif") as video:
        told = json.loads(video.info["comment"])
        lengths = [frame.info["duration"] for frame in ImageSequence.Iterator(video)]
    assert (told["seed"], told["prompt"], told["frames"], told["frame_rate"]) == (5, "a fox", FRAMES, 16)
    # Nine frames at 16 a second, in hundredths of a second.
    assert len(lengths) == FRAMES and sum(lengths) == 560 and set(lengths) <= {60, 70}


def test_a_teacher_is_what_its_stock_pipeline_makes(cli, tmp_path) -> None:
    """Against a pipeline that is put together by hand, guidance and the shift of another solver and all."""
    preset, _ = zoo_preset(ROW, tmp_path)
    vae = tiny_vae("wan")
    vae.save_pretrained(tmp_path / "base" / "vae")
    solver = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 1.7}
    diffusers.UniPCMultistepScheduler(**solver).save_pretrained(tmp_path / "base" / "scheduler")
    # As many frames as the preset trains on.
    run(cli, "--teacher", preset, "a fox", *SIZE, "--steps", 3, "--seeds", 4, "--output", tmp_path / "out")
    pipeline = family_of("wan").pipeline(ROW.build(), diffusers.FlowMatchEulerDiscreteScheduler(shift=1.7))
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt_embeds=ROW.encode(6)["prompt_embeds"][None], negative_prompt_embeds=ROW.encode(1)["prompt_embeds"][None],
        latents=seeded_noise(seeded_generators([4]), ROW.latents), guidance_scale=ROW.guidance, height=64, width=96,
        num_frames=FRAMES, num_inference_steps=3, output_type="latent",
    ).frames  # fmt: skip
    # The pipeline's own way from latents to frames.
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    with torch.no_grad():
        expected = frames(vae.decode(latents * std + mean).sample)
    assert abs(cells(tmp_path / "out" / "grid.png", 1) - expected).max() <= 1


def test_wan_ti2v_is_sampled_in_positions_of_16_pixels_at_its_own_rate(cli, tmp_path, without_av) -> None:
    student = saved_student(ZOO["wan-ti2v"], tmp_path)
    shutil.rmtree(tmp_path / "base" / "vae")
    tiny_ti2v_vae().save_pretrained(tmp_path / "base" / "vae")
    asked = [student, "a fox", "--frames", 5, "--width", 96, "--output", tmp_path / "out"]
    run(cli, *asked, "--height", 64)
    with Image.open(tmp_path / "out" / "0000-000000.gif") as video:
        told = json.loads(video.info["comment"])
        assert (video.size, video.n_frames, told["frame_rate"]) == ((96, 64), 5, 24)
    refused = cli("sample", *map(str, asked), "--height", "48", "--overwrite")
    assert refused.code == 2 and "height 48 is no multiple of 32 pixels" in refused.err


def test_videos_come_again_and_are_replaced(cli, wan: Path, tmp_path) -> None:
    common = [wan, "a fox", *SIZE, "--frames", FRAMES, "--output", tmp_path / "out", "--quiet", "--no-grid"]
    run(cli, *common)
    before = (tmp_path / "out" / "0000-000000.gif").read_bytes()
    refused = cli("sample", *map(str, common))
    assert refused.code == 2 and "is not empty" in refused.err
    run(cli, *common, "--seeds", "1", "--overwrite")
    assert not (tmp_path / "out" / "0000-000000.gif").exists()
    run(cli, *common, "--overwrite")
    assert (tmp_path / "out" / "0000-000000.gif").read_bytes() == before


def test_in_python_a_video_is_a_picture_with_frames(wan: Path) -> None:
    (video,) = piflow.sample(wan, "a fox", height=64, width=96, frames=FRAMES, device="cpu")
    assert video.n_frames == FRAMES and json.loads(video.info["comment"])["seed"] == 0
    video.seek(FRAMES - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "8"], "makes videos of 4 n + 1 frames\n  → take the nearest: --frames 5 or --frames 9"),
        ([], "how many frames the student was trained for is not known"),
        (["--frames", "9", "--mp4"], '--mp4 needs the package av\n  → pip install "piflow[video]"'),
    ],
)  # fmt: skip
def test_what_cannot_be_made_says_so(cli, wan: Path, tmp_path, without_av, arguments, message: str) -> None:
    outcome = cli("sample", str(wan), "a fox", *SIZE, *arguments, "--output", str(tmp_path / "out"))
    assert outcome.code == 2 and message in outcome.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--frames", "9"], ["--mp4"]])
def test_models_of_pictures_have_no_frames(cli, tmp_path, monkeypatch, option: list[str]) -> None:
    monkeypatch.setattr(sampling_request, "find_spec", lambda name: object())
    preset, _ = zoo_preset(ZOO["flux"], tmp_path)
    outcome = cli("sample", "--teacher", str(preset), "a fox", *SIZE, *option, "--output", str(tmp_path / "out"))
    assert outcome.code == 2 and f"{option[0]} is of videos, and this model makes pictures" in outcome.err


def test_a_window_of_pictures_refuses_videos(wan: Path) -> None:
    with pytest.raises(UsageError, match="makes videos, and piflow demo is for students of pictures"):
        find_student(wan).refuse_beyond_pictures("piflow demo")


def test_a_strip_runs_from_the_first_frame_to_the_last() -> None:
    assert strip_places(FRAMES) == SHOWN and strip_places(81) == [0, 20, 40, 60, 80]
    assert strip_places(3) == [0, 1, 2] and strip_places(1) == [0]


def test_a_gif_is_as_long_as_its_frames_at_their_rate(tmp_path) -> None:
    images = [Image.new("RGB", (8, 8), (number, 2 * number, 255 - number)) for number in range(81)]
    (tmp_path / "a.gif").write_bytes(gif_of(images, 16))
    with Image.open(tmp_path / "a.gif") as video:
        assert video.info["loop"] == 0
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(video)) == round(81 / 16, 2) * 1000


def test_an_mp4_has_all_frames_at_their_rate_and_the_recipe(tmp_path) -> None:
    av = pytest.importorskip("av")
    images = [Image.new("RGB", (32, 16), (20 * number, 100, 255 - 20 * number)) for number in range(FRAMES)]
    (tmp_path / "a.mp4").write_bytes(mp4_of(images, 16, {"seed": 3}))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate == 16 and json.loads(container.metadata["comment"]) == {"seed": 3}
    assert len(found) == FRAMES
    for frame, image in zip(found, images, strict=True):
        assert abs(frame.astype(int) - np.asarray(image)).max() < 12


def test_the_latents_of_a_video_have_the_frames_of_its_step() -> None:
    family, config = family_of("wan"), ROW.build().config
    assert family.latent_shape(config, (832, 480), 81) == (LATENTS[0], 21, 60, 104)
    assert family.latent_shape(config, (96, 64), 1) == (LATENTS[0], 1, 8, 12)


def test_a_run_of_videos_stops_goes_on_and_is_sampled(cli, tmp_path) -> None:
    """From prompts to a student: frames are those of the preset, in training and in what is made afterwards."""
    preset, _ = zoo_preset(ROW, tmp_path)
    tiny_vae("wan").save_pretrained(tmp_path / "base" / "vae")
    (tmp_path / "p.txt").write_text("cat\na sun\n")
    asked = [
        "distill",
        "--teacher",
        str(preset),
        "--prompts",
        str(tmp_path / "p.txt"),
        "--output",
        str(tmp_path / "run"),
    ]
    asked += ["--set", f"data.cache={tmp_path / 'cache'}", "--set", "data.sizes=[[32, 32]]", "--quiet"]
    assert cli(*asked, "--iterations", "2").code == 0
    assert cli(*asked, "--iterations", "4", "--set", "output.preview_every=4").code == 0
    student = open_student(tmp_path / "run")
    assert student.facts.iterations == 4
    # Two videos, each of five frames; and three rows of two in what stands beside the teacher.
    for name, rows in (("previews/0000004.png", 2), ("samples.png", 6)):
        with Image.open(tmp_path / "run" / name) as picture:
            assert picture.width > 5 * 64 and rows * 64 < picture.height < (rows + 1) * 70
    run(cli, tmp_path / "run", "cat", "--output", tmp_path / "out", "--quiet")
    with Image.open(tmp_path / "out" / "0000-000000.gif") as video:
        assert (video.size, video.n_frames) == ((32, 32), FRAMES)
