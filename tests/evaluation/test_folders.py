from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from piflow_cli.console import Console
from piflow_cli.errors import UsageError
from piflow_cli.evaluation import folders
from piflow_cli.evaluation.extractors.pictures import quantised
from piflow_cli.evaluation.folders import open_folder
from piflow_cli.reports.images import save_png


def write(folder: Path, name: str, size: tuple[int, int] = (4, 4), mode: str = "RGB", seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def all_pixels(folder, size: int = 2, console: Console | None = None) -> list[torch.Tensor]:
    return list(folder.batches(size, console))


def test_pictures_come_by_name_in_batches_of_their_8_bit_values(tmp_path: Path) -> None:
    paths = [write(tmp_path, name, seed=seed) for seed, name in enumerate(["b/2.png", "a.png", "b/1.PNG"])]
    (tmp_path / "notes.txt").write_text("no picture")
    batches = all_pixels(open_folder(tmp_path))
    assert [len(batch) for batch in batches] == [2, 1]
    found = ((torch.cat(batches) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for pixels, path in zip(found, (paths[1], paths[2], paths[0])):
        assert (pixels == np.asarray(Image.open(path))).all()


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30))
def test_8_bit_values_survive_the_scaling(values: list[int]) -> None:
    levels = torch.tensor(values, dtype=torch.uint8).reshape(1, 1, 1, -1)
    assert torch.equal(quantised(levels.float() / 127.5 - 1), levels.expand(1, 3, 1, -1))


def test_several_sizes_are_counted_said_and_batched_apart(tmp_path: Path, capsys) -> None:
    for index, size in enumerate([(4, 4), (6, 4), (4, 4), (4, 4)]):
        write(tmp_path, f"{index}.png", size)
    folder = open_folder(tmp_path, console=Console())
    assert "pictures of 2 sizes (3 4x4, 1 6x4), each resized by itself" in capsys.readouterr().err
    assert [tuple(batch.shape) for batch in all_pixels(folder)] == [(2, 3, 4, 4), (1, 3, 4, 4), (1, 3, 4, 6)]


def test_modes_that_are_not_rgb_are_counted_said_and_converted(tmp_path: Path, capsys) -> None:
    for index, mode in enumerate(["RGB", "RGBA", "P", "L", "RGBA"]):
        write(tmp_path, f"{index}.png", mode=mode)
    folder = open_folder(tmp_path, console=Console())
    assert "converted to 8-bit RGB: 2 RGBA, 1 P, 1 L" in capsys.readouterr().err
    assert torch.cat(all_pixels(folder)).shape == (5, 3, 4, 4)


def test_grey_pictures_stay_grey(tmp_path: Path, capsys) -> None:
    for index in range(3):
        write(tmp_path, f"{index}.png", mode="L")
    assert torch.cat(all_pixels(open_folder(tmp_path, console=Console()))).shape == (3, 1, 4, 4)
    assert capsys.readouterr().err == ""


def test_unreadable_files_are_left_out_and_named(tmp_path: Path, capsys) -> None:
    for index in range(3):
        write(tmp_path, f"{index}.png", seed=index)
    (tmp_path / "broken.png").write_bytes(b"not a picture at all")
    damaged = write(tmp_path, "cut.png", (64, 64))
    damaged.write_bytes(damaged.read_bytes()[:2000])
    folder = open_folder(tmp_path, console=Console())
    assert "1 files left out, unreadable: broken.png (not a picture)" in capsys.readouterr().err
    batches = all_pixels(folder, console=Console())
    # The header of the picture that is cut short was whole.
    assert sum(map(len, batches)) == 3
    assert "1 files left out, damaged: cut.png (" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_empty_or_holds_one_picture(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder .*/absent"):
        open_folder(tmp_path / "absent")
    with pytest.raises(UsageError, match="holds no readable pictures"):
        open_folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no readable pictures .*unreadable: broken.png"):
        open_folder(tmp_path)
    write(tmp_path, "one.png")
    with pytest.raises(UsageError, match="one picture, which has no covariance; unreadable: broken.png"):
        open_folder(tmp_path)


def test_more_pictures_than_there_are_are_refused(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path, f"{index}.png")
    with pytest.raises(UsageError, match="holds 3 readable pictures, and 4 are wanted") as caught:
        open_folder(tmp_path, 4)
    assert caught.value.hint == "take --num-images 3"
    write(tmp_path / "one", "0.png")
    with pytest.raises(UsageError, match="holds one picture") as caught:
        open_folder(tmp_path / "one", 4)
    assert caught.value.hint == "give at least two, better thousands"
    assert [entry.path.name for entry in open_folder(tmp_path, 2).entries] == ["0.png", "1.png"]


def test_the_files_are_those_that_clean_fid_counts(tmp_path: Path, capsys) -> None:
    """Hidden names are left out and links are followed; grids of samples are none of
    them, and other kinds of pictures are named."""
    counted = ["0.png", "a/1.JPG", "b.v2.bmp", "c.pgm", "d.webp"]
    for name in [*counted, ".hidden.png", ".ipynb_checkpoints/e.png", "f.gif", "g.avif"]:
        write(tmp_path / "in", name, mode="L" if name.endswith("pgm") else "RGB")
    write(tmp_path / "far", "2.png")
    (tmp_path / "in" / "linked").symlink_to("../far")
    save_png(Image.new("RGB", (4, 4)), tmp_path / "in" / "grid.png", {"grid": True})
    # Not by its name.
    save_png(Image.new("RGB", (4, 4)), tmp_path / "in" / "a" / "grid.png", {"piflow": "0.1.0", "seed": 3})
    folder = open_folder(tmp_path / "in", console=Console())
    assert {str(entry.path.relative_to(tmp_path / "in")) for entry in folder.entries} == {
        *counted,
        "linked/2.png",
        "a/grid.png",
    }
    said = capsys.readouterr().err
    assert "2 files left out, of kinds that clean-fid does not count: f.gif, g.avif" in said
    assert "left out, a grid of pictures that `piflow sample` made: grid.png" in said


def test_pictures_of_sixteen_bits_are_those_of_eight(tmp_path: Path, capsys) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name, values in (
        ("8/a", levels),
        ("8/b", levels.T),
        ("16/a", levels.astype(np.uint16) * 257),
        ("16/b", levels.T.astype(np.uint16) * 257),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    eight, sixteen = (torch.cat(all_pixels(open_folder(tmp_path / name, console=Console()))) for name in ("8", "16"))
    assert torch.equal(eight, sixteen) and eight.shape == (2, 1, 16, 16)
    assert "converted to 8-bit grey: 2 I;16" in capsys.readouterr().err


def test_pictures_without_a_white_of_their_own_are_left_out_by_name(tmp_path: Path, capsys) -> None:
    for index in range(2):
        write(tmp_path, f"{index}.png")
    Image.new("F", (4, 4), 0.5).save(tmp_path / "f.tif")
    Image.new("I", (4, 4), 70_000).save(tmp_path / "i.tif")
    assert len(open_folder(tmp_path, console=Console()).entries) == 2
    said = capsys.readouterr().err
    assert (
        "2 files left out, unreadable: f.tif (floating-point numbers (mode F)" in said
        and "i.tif (32-bit whole numbers (mode I)" in said
    )


def test_large_pictures_come_in_smaller_batches(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "MOST_PIXELS_AT_ONCE", 3 * 16)
    for index in range(7):
        write(tmp_path, f"{index}.png")
    write(tmp_path, "large.png", (8, 8))
    assert [tuple(batch.shape) for batch in all_pixels(open_folder(tmp_path), 64)] == [
        (3, 3, 4, 4),
        (3, 3, 4, 4),
        (1, 3, 4, 4),
        (1, 3, 8, 8),
    ]


def test_a_batch_is_decoded_ahead_and_no_more(tmp_path: Path, monkeypatch) -> None:
    """Memory does not depend on how many pictures there are."""
    for index in range(9):
        write(tmp_path, f"{index}.png")
    opened = []
    original = Image.open
    folder = open_folder(tmp_path)
    monkeypatch.setattr(Image, "open", lambda path, **options: opened.append(path) or original(path, **options))
    stream = folder.batches(2)
    next(stream)
    assert len(opened) <= 4
    assert sum(len(batch) for batch in stream) == 7
