"""One rule for what a picture's bytes mean, in training and in evaluation; and the one walk through folders."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import encoded, put
from PIL import Image

from piflow_cli.data.picture_folders import files_below
from piflow_cli.data.pictures import (
    MODES,
    MOST_PIXELS,
    PHOTOMETRIC,
    UNSCALED,
    WHITE_IS_ZERO,
    Unreadable,
    as_stored,
    in_eight_bits,
    mode_of,
    open_picture,
    upright_size,
)

LEVELS = st.lists(st.integers(0, 65535), min_size=1, max_size=40)


def sixteen(values: list[int] | np.ndarray, kind: str) -> bytes:
    """One row of 16-bit grey, written by hand where Pillow would write something else."""
    row = np.atleast_2d(np.asarray(values, dtype=np.uint16))
    if kind == "PGM":
        return f"P5 {row.shape[1]} {row.shape[0]} 65535\n".encode() + row.astype(">u2").tobytes()
    buffer = io.BytesIO()
    big = kind == "TIFF, big end first"
    picture = Image.frombytes("I;16B", row.shape[::-1], row.astype(">u2").tobytes()) if big else Image.fromarray(row)
    picture.save(buffer, kind.partition(",")[0])
    return buffer.getvalue()


def both(data: bytes, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The grey levels that training sees, and those that evaluation sees."""
    path = folder / "x"
    path.write_bytes(data)
    seen = np.asarray(open_picture(data))
    assert (seen == seen[..., :1]).all()
    return seen[..., 0], as_stored(path, grey=True)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, big end first", "PGM"])
@given(values=LEVELS)
def test_sixteen_bits_are_scaled_by_257_to_the_nearest(tmp_path_factory, kind: str, values: list[int]) -> None:
    expected = [round(value / 257) for value in values]
    for found in both(sixteen(values, kind), tmp_path_factory.mktemp("x")):
        assert found.tolist() == [expected]


def test_a_turned_picture_of_sixteen_bits_is_turned_back() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(buffer, "PNG", exif=turned)
    assert np.asarray(open_picture(buffer.getvalue()))[..., 0].tolist() == [[0], [1], [255]]


def test_sixteen_bits_that_are_transparent_lie_on_white() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 514, 65535]], dtype=np.uint16)).save(buffer, "PNG", transparency=514)
    assert np.asarray(open_picture(buffer.getvalue()))[..., 0].tolist() == [[0, 255, 255]]


@pytest.mark.parametrize(("mode", "kind", "named"), [("I", "TIFF", r"mode I\)"), ("F", "TIFF", r"mode F\)")])
def test_pictures_whose_white_is_not_known_are_refused_by_name(tmp_path, mode: str, kind: str, named: str) -> None:
    data = encoded(mode=mode, colour=1, kind=kind)
    (tmp_path / "x.tif").write_bytes(data)
    for read in (open_picture, upright_size, lambda data: as_stored(tmp_path / "x.tif", grey=False)):
        with pytest.raises(Unreadable, match=named):
            read(data)


COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (119, 119, 119), "clay": (180, 120, 90)}
# How a picture of each of Pillow's modes gets into a file; None: no format that we read has it.
FILES = {
    "1": "PNG", "L": "PNG", "P": "PNG", "RGB": "PNG", "RGBA": "PNG", "LA": "PNG", "PA": "TIFF", "CMYK": "TIFF",
    "YCbCr": "TIFF", "LAB": "TIFF", "I;16": "PNG", "I;16B": "TIFF",
    "RGBX": None, "HSV": None, "La": None, "RGBa": None,
}  # fmt: skip
COLOURLESS = {"1", "L", "LA", "La", "I;16", "I;16B"}
# Steps of 8 bits that a conversion to the mode and back may take.
ROUNDING = {"YCbCr": 2, "LAB": 3, "HSV": 2}


def of_mode(mode: str, colour: tuple[int, int, int]) -> Image.Image:
    """Two pixels of one opaque colour in any of Pillow's modes."""
    if mode.startswith("I;16"):
        row = np.full(2, colour[0] * 257, ">u2" if mode == "I;16B" else "<u2")
        return Image.frombytes(mode, (2, 1), row.tobytes())
    through = {"La": "LA", "RGBa": "RGBA"}.get(mode)
    picture = Image.new("RGB", (2, 1), colour)
    if mode in ("P", "PA"):
        # Pillow's own palette for all pictures has few of these colours.
        return picture.quantize(2).convert(mode)
    return (picture if through is None else picture.convert(through)).convert(mode)


def colours_of(mode: str) -> list[str]:
    """Those that the mode has."""
    lacking = ("clay", "grey") if mode == "1" else ("clay",) if mode in COLOURLESS else ()
    return [colour for colour in COLOURS if colour not in lacking]


@pytest.mark.parametrize(("mode", "colour"), [(mode, colour) for mode in FILES for colour in colours_of(mode)])
def test_every_mode_is_the_same_picture_in_training_and_evaluation(tmp_path, mode: str, colour: str) -> None:
    picture, wanted = of_mode(mode, COLOURS[colour]), np.array(COLOURS[colour])
    found = {"rule": np.asarray(in_eight_bits(picture, "RGB")), "grey": np.asarray(in_eight_bits(picture, "L"))}
    if FILES[mode] is not None:
        picture.save(tmp_path / "x", FILES[mode])
        found["training"] = np.asarray(open_picture((tmp_path / "x").read_bytes()))
        found["evaluation"] = as_stored(tmp_path / "x", grey=False)
        found["grey in evaluation"] = as_stored(tmp_path / "x", grey=True)
        assert (found["training"] == found["evaluation"]).all()
    # ITU-R 601, as all of Pillow's ways from colours to grey.
    luma = wanted @ [0.299, 0.587, 0.114]
    for way, pixels in found.items():
        expected = luma if "grey" in way else wanted
        assert np.abs(pixels.astype(float) - expected).max() <= 1 + ROUNDING.get(mode, 0), way


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_what_is_transparent_lies_on_white(monkeypatch, mode: str) -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture = clear.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
    monkeypatch.setattr("piflow_cli.data.pictures.opened_picture", lambda source: nullcontext(picture))
    assert np.asarray(open_picture(b"")).tolist() == [[[255, 255, 255]] * 2]


def test_a_mode_that_is_not_in_the_table_is_refused_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.delitem(MODES, "CMYK")
    path = tmp_path / "x"
    of_mode("CMYK", (255, 0, 0)).save(path, "TIFF")
    for read in (open_picture, upright_size, lambda data: as_stored(path, grey=False)):
        with pytest.raises(Unreadable, match="values of mode CMYK: save it in RGB"):
            read(path.read_bytes())


def test_every_mode_that_this_pillow_knows_is_in_the_table() -> None:
    known = {mode_of(Image.new(mode, (1, 1))) for mode in Image.MODES}
    assert known == MODES.keys() | UNSCALED.keys()


def test_sixteen_bits_that_count_from_white_are_refused_by_name(tmp_path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(path, tiffinfo={PHOTOMETRIC: WHITE_IS_ZERO})
    for read in (open_picture, upright_size, lambda data: as_stored(path, grey=True)):
        with pytest.raises(Unreadable, match="0 is white"):
            read(path.read_bytes())


def test_animations_give_their_first_frame(tmp_path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert open_picture((tmp_path / "x.gif").read_bytes()).getpixel((0, 0)) == (255, 0, 0)


def header(width: int, height: int) -> bytes:
    """The beginning of a PNG that says how large it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13_378, 30_000, 2**31 - 1])
def test_bombs_are_refused_before_they_are_decoded(side: int) -> None:
    assert side**2 > MOST_PIXELS
    with pytest.raises(Unreadable, match="more than 178,956,970 pixels"):
        upright_size(header(side, side))


def test_a_large_photo_is_no_bomb_and_no_command_says_anything_of_it(tmp_path) -> None:
    (tmp_path / "x.png").write_bytes(header(12_000, 9_000))
    code = (
        "import sys; from pathlib import Path; from piflow_cli.console import Console;"
        " from piflow_cli.data.pictures import upright_size\n"
        "with Console().listening(): print(upright_size(Path(sys.argv[1]).read_bytes()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.png")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(12000, 9000)\n", "")


def test_postscript_is_no_picture() -> None:
    """Pillow would start a program for it."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "EPS")
    with pytest.raises(Unreadable, match="not a picture"):
        open_picture(buffer.getvalue())


def below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in files_below(folder)]


def test_the_walk_follows_links_and_leaves_hidden_names_out(tmp_path) -> None:
    put(
        tmp_path,
        {
            "in/b.png": "",
            "in/a/c.png": "",
            "in/.x.png": "",
            "in/.ipynb_checkpoints/d.png": "",
            "far/e.png": "",
            "far/.f/g.png": "",
        },
    )
    (tmp_path / "in" / "more").symlink_to("../far")
    (tmp_path / "in" / "h.png").symlink_to("../far/e.png")
    assert below(tmp_path / "in") == ["a/c.png", "b.png", "h.png", "more/e.png"]
    # A folder whose own path has a hidden part is meant as it is named.
    assert below(tmp_path / "far" / ".f") == ["g.png"]


def test_links_that_lead_in_circles_end(tmp_path) -> None:
    put(tmp_path, {"a/x.png": "", "a/b/y.png": ""})
    (tmp_path / "a" / "b" / "up").symlink_to("..")
    (tmp_path / "a" / "self").symlink_to(".")
    assert below(tmp_path / "a") == ["b/y.png", "x.png"]


def test_a_link_to_nowhere_is_among_the_files_and_a_pipe_is_not(tmp_path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "itself.png").symlink_to("itself.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert below(tmp_path) == ["gone.png", "itself.png"]
    with pytest.raises(Unreadable, match="No such file"):
        as_stored(tmp_path / "gone.png", grey=True)
