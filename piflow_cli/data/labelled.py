"""Pictures with labels, from one of several sources.

They are a folder with a sub-folder for each class, a folder with a metadata file, webdataset shards, or rows of a
tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..errors import UsageError
from .captions import METADATA, pictures_of_folder
from .labelled_images import IMAGES, labels_of, white_of
from .picture import LABELS, Picture
from .picture_folders import files_below
from .pictures import SUFFIXES
from .shards import pictures_of_shards
from .tensor_rows import Rows, tensors_in

LAYOUT = (
    "name the folder that has one sub-folder for each class, or put a metadata.jsonl with file_name and label into it"
)


def list_labelled(source: Path, classes: int) -> list[Picture]:
    """All pictures of ``source`` with their labels, as digits, for captions; no picture is read.

    Args:
        source: a folder with one sub-folder a class, whose names in their order are the classes 0, 1, 2, … as ImageNet
            has them; a folder with ``metadata.jsonl`` or ``.csv`` (``file_name`` and ``label``); webdataset shards, or
            a folder of them, with a label in ``.cls`` or in ``.json`` (``label``); a safetensors file of pictures.
        classes: how many the teacher knows.

    Raises:
        UsageError: there is nothing of that kind; labels are not those of the teacher's classes; a metadata file or
            shard has faults.
    """
    if source.suffix == ".safetensors":
        pictures = _of_tensors(source)
    elif source.is_file():
        pictures = pictures_of_shards([source], LABELS)
    else:
        pictures = _of_folder(source, classes)
    _refuse_strange_labels(source, [picture for picture in pictures if picture.caption is not None], classes)
    return pictures


def _of_folder(folder: Path, classes: int) -> list[Picture]:
    files = files_below(folder)
    shards = [file for file in files if file.suffix == ".tar"]
    listed = any(file.name in METADATA for file in files)
    if shards and (listed or any(file.suffix.lower() in SUFFIXES for file in files)):
        raise UsageError(f"{folder} holds both pictures and .tar shards", "keep each in a folder of its own")
    if shards:
        return pictures_of_shards(shards, LABELS)
    pictures = pictures_of_folder(folder, files, LABELS)
    return pictures if listed else _by_sub_folder(folder, pictures, classes)


def _by_sub_folder(folder: Path, pictures: Sequence[Picture], classes: int) -> list[Picture]:
    """The pictures with the numbers of their sub-folders.

    There must be as many as classes: one less would shift the rest.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    loose = [picture.name for picture in pictures if len(Path(picture.name).parts) == 1]
    if loose:
        raise UsageError(f"{folder}: {loose[0]} lies in no sub-folder, which would tell its class", LAYOUT)
    if len(names) != classes:
        raise UsageError(f"{folder} has {len(names)} sub-folders, and the teacher knows {classes} classes", LAYOUT)
    if not pictures:
        raise UsageError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}) and no .tar shards", LAYOUT)
    numbers = {name: str(number) for number, name in enumerate(names)}
    return [replace(picture, caption=numbers[Path(picture.name).parts[0]]) for picture in pictures]


def _refuse_strange_labels(source: Path, pictures: Sequence[Picture], classes: int) -> None:
    wrong = [picture for picture in pictures if picture.caption is None or int(picture.caption) >= classes]
    if wrong:
        raise UsageError(
            f"{source}: {wrong[0].name} has the label {wrong[0].caption}, and the teacher knows the classes 0 to"
            f" {classes - 1}",
            "mend the labels, or name the data of this teacher",
        )


def _of_tensors(path: Path) -> list[Picture]:
    """The rows of ``images``, (N, H, W) or (N, C, H, W) uint8 with C = 1 or 3."""
    labels, images, white = labels_of(path).tolist(), tensors_in(path)[1][IMAGES], white_of(path)
    if white != int(white) or white > 255:
        raise UsageError(
            f"{path}: its white value {white:g} is none of 8 bits",
            "write a whole number up to 255 as its metadata levels",
        )
    return [
        Picture(f"{path}[{row}]", str(label), partial(_netpbm, images, int(white), row))
        for row, label in enumerate(labels)
    ]


def _netpbm(images: Rows, white: int, row: int) -> bytes:
    """A picture of a tensor as the bytes of a file, which all pictures are: Netpbm's header, then its pixels."""
    pixels = images.read(torch.tensor([row]))[0]
    pixels = pixels if pixels.ndim == 3 else pixels.unsqueeze(0)
    height, width = pixels.shape[1:]
    kind = b"P5" if len(pixels) == 1 else b"P6"
    return b"%s %d %d %d\n" % (kind, width, height, white) + pixels.permute(1, 2, 0).contiguous().numpy().tobytes()
