"""Edits from a folder to a student and back to pictures, and what of them is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from edit_data import TEXTS, listed_edits, named_edits, picture
from interruptions import interrupted_at
from PIL import Image
from safetensors.torch import load_file
from tiny_vae import tiny_vae
from zoo import EDITS, ZOO, zoo_preset

from piflow_cli.console import Console
from piflow_cli.data.buckets import fit
from piflow_cli.presets.resolve import resolve
from piflow_cli.teachers import family_of
from piflow_cli.teachers.encoders import REFERENCE
from piflow_cli.training import loop, run

pytestmark = pytest.mark.usefixtures("text_encoders", "small_references")
SIZES = ["--set", "data.sizes=[[96,64],[64,64]]"]


def preset_of(name: str, folder: Path) -> Path:
    """A preset of a family, and its base with a VAE, in ``folder``."""
    path, _ = zoo_preset({**ZOO, **EDITS}[name], folder)
    tiny_vae(name).save_pretrained(folder / "base" / "vae")
    return path


@pytest.fixture
def preset(tmp_path) -> Path:
    return preset_of("flux-kontext", tmp_path)


class Heard(Console):
    """Remembers what it is to say."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(quiet=True)
        self.heard = said

    def say(self, text: str) -> None:
        self.heard.append(text)


def told(preset: Path, folder: Path, *more: str) -> list[str]:
    cache = ["--set", f"data.cache={folder.parent / 'cache'}"]
    return ["distill", "--teacher", str(preset), "--data", str(folder), *cache, *SIZES, "--quiet", *more]


@pytest.mark.parametrize("name", EDITS)
def test_a_run_of_edits_resumes_bit_for_bit_and_its_student_edits(cli, name: str, tmp_path, monkeypatch) -> None:
    preset = preset_of(name, tmp_path)
    arguments = told(preset, listed_edits(tmp_path / "edits"))
    plan = json.loads(cli(*arguments, "--dry-run", "--json", "--output", str(tmp_path / "whole")).out)
    assert plan["data"]["source"].startswith("3 edits of ") and plan["data"]["used"].startswith("all")
    whole = cli(*arguments, "--output", str(tmp_path / "whole"))
    assert (whole.code, whole.err) == (0, ""), whole.err
    monkeypatch.setattr(run, "train_step", interrupted_at(1))
    assert cli(*arguments, "--output", str(tmp_path / "parts")).code == 130
    monkeypatch.setattr(run, "train_step", loop.train_step)
    assert cli(*arguments, "--output", str(tmp_path / "parts")).code == 0
    one, other = (
        load_file(tmp_path / output / "adapter" / "diffusion_pytorch_model.safetensors")
        for output in ("whole", "parts")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "whole" / "samples.png").is_file()
    shown = [str(picture(tmp_path / f"{number}.png", 20 + number)) for number in range(2)]
    size = ["--width", "96", "--height", "64"]
    # A student knows the sizes that it was trained at.
    models = {"student": [str(tmp_path / "whole")], "teacher": ["--teacher", str(preset), *size]}
    for kind, model in models.items():
        sampled = cli(
            *("sample", *model, "a fox", "a fox", "--reference", shown[0], "--reference", shown[1]),
            *("--steps", "2", "--batch-size", "2", "--quiet", "--output", str(tmp_path / kind)),
        )
        assert sampled.code == 0, sampled.err
        made = [np.asarray(Image.open(tmp_path / kind / f"000{number}-000000.png")) for number in range(2)]
        assert made[0].shape == (64, 96, 3) and (made[0] != made[1]).any()
    for command in ("eval", "inspect-policy"):
        (tmp_path / "p.txt").write_text("a fox\n")
        asked = ("--prompts", str(tmp_path / "p.txt"), "--output", str(tmp_path / command), "--quiet")
        refused = cli(command, str(tmp_path / "whole"), *asked)
        assert refused.code == 2 and "edits a picture that it is shown" in refused.err, refused.err


@pytest.mark.parametrize("layout", [listed_edits, named_edits])
@pytest.mark.parametrize("data_free", [True, False])
def test_a_batch_holds_the_pictures_that_belong_to_its_texts(preset, layout, data_free: bool, tmp_path) -> None:
    folder = layout(tmp_path / "edits", targets=not data_free)
    given = [f"data.cache={tmp_path / 'cache'}", SIZES[1], f"imitation.data_free={str(data_free).lower()}"]
    asked = resolve(preset, None, given, {"data.captioned": str(folder)})
    data = run.open_session(asked, tmp_path / "out", "cpu", Console(quiet=True)).data
    batch, family, vae = data.batch(0, 0, 3), family_of("flux-kontext"), tiny_vae("flux-kontext")
    assert batch.shape == (3, 4, 8, 12) and (batch.x_0 is None) == data_free
    for text, reference in zip(batch.texts, batch.conditioning[REFERENCE], strict=True):
        path = tmp_path / "picture.png"
        shown = Image.open(picture(path, TEXTS.index(text)))
        with torch.no_grad():
            expected, _ = family.encode_images(vae, fit(shown, (96, 64))[None])
        torch.testing.assert_close(reference, expected[0], rtol=1e-4, atol=1e-5)


def test_an_encoder_that_sees_reads_each_text_beside_its_own_picture(tmp_path) -> None:
    """Texts of one length differ by the pictures alone, and so do the empty ones."""
    row = EDITS["qwen-image-edit"]
    path = preset_of(row.family, tmp_path)
    folder = listed_edits(tmp_path / "edits")
    for number in range(3):
        Image.new("RGB", (96, 64), 3 * (80 * number,)).save(folder / "before" / f"{number}.png")
    given = [f"data.cache={tmp_path / 'cache'}", SIZES[1], "imitation.data_free=true"]
    asked = resolve(path, None, given, {"data.captioned": str(folder)})
    said: list[str] = []
    for _ in range(2):
        data = run.open_session(asked, tmp_path / "out", "cpu", Heard(said)).data
    assert any("text embeddings: 6 found" in line for line in said), said
    batch = data.batch(0, 0, 3)
    for index, text in enumerate(batch.texts):
        bright = TEXTS.index(text) * 80 / 255
        for name, length in (("prompt_embeds", len(text) + 1), ("negative_prompt_embeds", 1)):
            expected = row.encode(length)["prompt_embeds"] + bright
            torch.testing.assert_close(batch.conditioning[name][index, :length], expected)


@pytest.mark.parametrize("name", ["flux2-edit", "qwen-image-edit"])
def test_an_edit_whose_reference_is_cut_short_is_left_out(name: str, tmp_path) -> None:
    path = preset_of(name, tmp_path)
    folder = listed_edits(tmp_path / "edits")
    whole = folder / "before" / "0.png"
    whole.write_bytes(whole.read_bytes()[:5000])
    given = [f"data.cache={tmp_path / 'cache'}", SIZES[1], "imitation.data_free=true"]
    asked = resolve(path, None, given, {"data.captioned": str(folder)})
    data = run.open_session(asked, tmp_path / "out", "cpu", Console(quiet=True)).data
    assert data.left_out == 1 and set(data.batch(0, 0, 2).texts) == set(TEXTS[1:])


def spoiled(folder: Path, *rows: dict) -> Path:
    (listed_edits(folder) / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


BEFORE = {"reference": "before/0.png", "text": "a fox"}


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (
            [{"file_name": "after/0.png", "text": "a fox"}],
            [],
            "names no reference pictures, and this teacher edits one",
        ),
        ([BEFORE, {"text": "a fox"}], [], "metadata.jsonl:2: reference is missing"),
        ([{**BEFORE, "reference": "no.png"}], [], "metadata.jsonl:1: there is no file no.png"),
        ([{**BEFORE, "file_name": "no.png"}], [], "metadata.jsonl:1: there is no file no.png"),
        ([{"reference": "before/0.png", "caption": "a fox"}], [], "metadata.jsonl:1: text is missing"),
        ([BEFORE], ["--no-data-free"], "1 of 1 edits of {} have no target picture to add noise to"),
        ([{**BEFORE, "reference": "bad.png"}], ["--data-free"], "can be used: 1 unreadable (bad.png: not a picture)"),
    ],
)
def test_faulty_edits_are_refused(cli, preset, rows, flags, message: str, tmp_path) -> None:
    folder = spoiled(tmp_path / "edits", *rows)
    (folder / "bad.png").write_bytes(b"no picture")
    refused = cli(*told(preset, folder, *flags), "--output", str(tmp_path / "out"))
    assert refused.code == 2 and message.format(folder) in refused.err, refused.err


def test_what_is_for_other_teachers_is_refused(cli, preset, tmp_path) -> None:
    (tmp_path / "p.txt").write_text("a fox\n")
    run_of = ["distill", "--teacher", str(preset), *SIZES, "--quiet", "--output", str(tmp_path / "out")]
    prompts = cli(*run_of, "--prompts", str(tmp_path / "p.txt"))
    assert prompts.code == 2 and "this one is shown a reference picture too" in prompts.err, prompts.err
    picture(tmp_path / "captioned" / "0.png", 0)
    (tmp_path / "captioned" / "0.txt").write_text("a fox")
    captioned = cli(*run_of, "--data", str(tmp_path / "captioned"))
    assert captioned.code == 2 and "holds no reference pictures, and this teacher edits one" in captioned.err
    file = cli(*run_of, "--data", str(tmp_path / "p.txt"))
    assert file.code == 2 and "is no folder, and edits are read from folders alone" in file.err
    nowhere = cli(*run_of, "--data", str(tmp_path / "nowhere"), "--dry-run")
    assert nowhere.code == 2 and f"there are no edits at {tmp_path / 'nowhere'}" in nowhere.err, nowhere.err
    assert "name a folder of reference pictures" in nowhere.err and "--data FOLDER" in nowhere.err
    (tmp_path / "other").mkdir()
    plain, _ = zoo_preset(ZOO["flux"], tmp_path / "other")
    edits = listed_edits(tmp_path / "edits")
    other = cli("distill", "--teacher", str(plain), "--data", str(edits), *SIZES, "--dry-run", "--quiet")
    assert other.code == 2 and "names reference pictures, and this teacher is shown none" in other.err, other.err


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("flux-kontext", [], "the model edits a picture, and none is given"),
        ("flux-kontext", ["good.png"] * 3, "3 pictures are given to edit, for 2 prompts"),
        ("flux-kontext", ["no.png"], "no.png: there is no such file"),
        ("flux-kontext", ["bad.png"], "bad.png cannot be read: not a picture"),
        ("flux-kontext", ["short.png"], "short.png cannot be read: "),
        ("qwen-image-edit", ["short.png"], "short.png cannot be read: "),
        ("flux", ["good.png"], "the model is told a text alone, and edits no picture"),
    ],
)
def test_pictures_to_edit_fit_the_model(cli, family: str, given: list[str], message: str, tmp_path) -> None:
    path = preset_of(family, tmp_path)
    picture(tmp_path / "good.png", 0)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "short.png").write_bytes((tmp_path / "good.png").read_bytes()[:5000])
    shown = [word for name in given for word in ("--reference", str(tmp_path / name))]
    refused = cli(
        "sample", "--teacher", str(path), "a fox", "a cat", *shown, "--quiet", "--output", str(tmp_path / "out")
    )
    assert refused.code == 2 and message in refused.err, refused.err
