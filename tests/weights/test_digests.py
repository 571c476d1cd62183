"""One flipped byte in what is shipped, or in a converted teacher, is noticed;
the second is made again in the same run."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from sit import HEADS, sit_weights

from piflow_cli.errors import RunError
from piflow_cli.evaluation.extractors.digits_classifier import load_classifier
from piflow_cli.presets.resolve import presets_root
from piflow_cli.system.files import user_cache
from piflow_cli.weights.digests import MANIFEST, check_shipped, is_whole, read_manifest, write_manifest
from piflow_cli.weights.locate import locate

SHIPPED = {
    "digits/diffusion_pytorch_model.safetensors": lambda: locate("preset:digits"),
    "digits/config.json": lambda: locate("preset:digits"),
    "digits/images.safetensors": lambda: locate("preset:digits/images.safetensors"),
    "digits/classifier.safetensors": load_classifier,
    "imagenet-repa/config.json": lambda: locate("preset:imagenet-repa", only=("*config.json",)),
}


def flip(path: Path, number: int) -> None:
    """Another bit of another byte for each ``number``."""
    data = bytearray(path.read_bytes())
    generator = random.Random(number)
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(data)


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A copy of what is shipped, in its place."""
    copied = tmp_path / "presets"
    shutil.copytree(presets_root(), copied)
    for module in ("weights.digests", "presets.folders", "evaluation.extractors.digits_classifier"):
        monkeypatch.setattr(f"piflow_cli.{module}.presets_root", lambda: copied)
    return copied


def test_everything_that_is_shipped_for_machines_is_listed_as_it_is():
    root = presets_root()
    # Presets are read by their schema, and notes by people.
    files = [path for path in root.glob("*/**/*") if path.is_file() and path.suffix != ".md"]
    assert read_manifest(root) == {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    check_shipped(files)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("name", SHIPPED)
def test_a_flipped_byte_in_what_is_shipped_is_one_line(shipped, name, number):
    SHIPPED[name]()
    flip(shipped / name, number)
    with pytest.raises(RunError, match="is not the file that came with piflow") as caught:
        SHIPPED[name]()
    assert str(shipped / name) in caught.value.message and "pip install" in caught.value.hint


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "images"])
def test_a_run_on_a_damaged_file_does_not_begin(cli, shipped, tmp_path, name):
    flip(shipped / "digits" / f"{name}.safetensors", 1)
    outcome = cli("distill", "--teacher", "digits", "--iterations", "1", "--quiet", "--output", str(tmp_path / "out"))
    assert outcome.code == 1 and f"{name}.safetensors is damaged" in outcome.err and len(outcome.err.splitlines()) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [None, b"", b"\xe2\x28 no list"])
def test_a_damaged_list_of_what_is_shipped_is_one_line(cli, shipped, tmp_path, damage):
    (shipped / MANIFEST).unlink() if damage is None else (shipped / MANIFEST).write_bytes(damage)
    outcome = cli("sample", "--teacher", "digits", "--quiet", "--output", str(tmp_path / "out"))
    assert outcome.code == 1 and "pip install" in outcome.err and "report it" not in outcome.err
    assert len(outcome.err.splitlines()) == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("victim", ["diffusion_pytorch_model.safetensors", "config.json", MANIFEST])
def test_a_damaged_converted_teacher_is_made_again_in_the_same_run(cli, tiny_teacher, tmp_path, monkeypatch, victim):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.save(sit_weights(), tmp_path / "sit.pt")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}))

    def planned() -> str:
        return cli("distill", "--teacher", str(tiny_teacher), "--base", str(tmp_path / "sit.pt"), "--dry-run").err

    assert planned() == ""
    (folder,) = [path for path in (user_cache() / "teachers").iterdir() if path.is_dir()]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert is_whole(folder)
    flip(folder / victim, 3)
    assert "is made anew" in planned().replace("\n", " ")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert planned() == ""


def test_a_manifest_is_read_by_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    write_manifest(tmp_path, ["a"])
    # FIPS 180-2, appendix B.1.
    assert (tmp_path / MANIFEST).read_text() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n"
    assert is_whole(tmp_path)
    (tmp_path / "a").write_bytes(b"abd")
    assert not is_whole(tmp_path)
    for content in ("", "no list\n"):
        (tmp_path / MANIFEST).write_text(content)
        assert not is_whole(tmp_path)
