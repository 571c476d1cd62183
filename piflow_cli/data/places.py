"""Data that settings and options name: whether they are there, seen before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..presets.families import shown_a_picture
from ..presets.folders import SHIPPED_PREFIX
from ..presets.places import expanded
from ..weights.locate import hub_id, locate
from .prompts import read_prompts
from .rows import names_dataset

if TYPE_CHECKING:
    from ..presets.schema import Preset

NAME_DATA = "name labelled pictures or latents, a folder or a file of them: --data SOURCE"
NAME_CAPTIONED = "name a folder, a .tar shard, or a data set as OWNER/NAME: --data SOURCE"
NAME_VIDEOS = "name a folder that holds some: --data FOLDER"
NAME_EDITS = "name a folder of reference pictures, instructions and, where there are some, targets: --data FOLDER"


def labelled_place(images: str) -> Path:
    """The place of `data.images`; raises UsageError where there is nothing.

    Only a file that is shipped or on the Hub is fetched.
    """
    path = expanded(images)
    if images.startswith(SHIPPED_PREFIX) or (not path.exists() and hub_id(images) is not None):
        return locate(images, option="--data SOURCE")
    if not path.exists():
        raise UsageError(f"there are no pictures at {images}", NAME_DATA)
    if path.is_file() and path.suffix not in (".safetensors", ".tar"):
        raise UsageError(f"{images} is neither a .safetensors file nor a .tar shard", NAME_DATA)
    return path


def require_captioned(source: str) -> None:
    """Raise UsageError where captioned pictures are at no path, and ``source`` is no name of a data set."""
    path = Path(source)
    if not path.exists() and (path.suffix == ".tar" or not names_dataset(source)):
        raise UsageError(f"there are no pictures at {source}", NAME_CAPTIONED)


def require_videos(source: str) -> None:
    """Raise UsageError where ``source`` is no path, from which alone videos are read."""
    if not Path(source).exists():
        raise UsageError(
            f"there are no videos at {source}, and videos are read from folders and .tar shards alone", NAME_VIDEOS
        )


def require_prompts(source: str, text_column: str | None = None) -> None:
    """Raise UsageError where a file of prompts is not there; what is in it, and the Hub, are left for later."""
    if not source.startswith(SHIPPED_PREFIX) and hub_id(source) is None and not Path(source).exists():
        read_prompts(source, text_column)


def require_edits(source: str) -> None:
    """Raise UsageError where ``source`` is no folder, from which alone edits are read."""
    if not Path(source).exists():
        raise UsageError(f"there are no edits at {source}", NAME_EDITS)
    if not Path(source).is_dir():
        raise UsageError(f"{source} is no folder, and edits are read from folders alone", NAME_EDITS)


def require_data(preset: Preset) -> None:
    """Raise UsageError where data of a run that are on this machine are not there."""
    section = preset.data
    if section.images is not None and hub_id(section.images) is None:
        labelled_place(section.images)
    if section.captioned is not None:
        pictures = require_captioned if section.frames is None else require_videos
        require = require_edits if shown_a_picture(preset.teacher.family) else pictures
        require(section.captioned)
    if section.prompts is not None:
        require_prompts(section.prompts)
