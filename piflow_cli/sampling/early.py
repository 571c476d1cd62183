"""What `piflow sample` refuses before torch is loaded, which takes seconds."""

from __future__ import annotations

import re
from pathlib import Path

from ..data.places import require_prompts
from ..errors import UsageError
from ..presets.resolve import load
from ..ranks import is_first
from ..reports.recipes import is_grid, recipe_of
from ..students.locate import check_student
from ..system.files import stood_aside
from ..system.outputs import check_output
from ..weights.locate import require_base
from .request import GIF, GRID_NAME, MP4, SampleRequest

_WRITTEN = re.compile(r"(\d{4,}-)?\d{6,}\.(png|gif|mp4)|grid\.png")


def check(request: SampleRequest) -> None:
    """Raise UsageError for what does not go together, is not there, or is there where pictures are to go."""
    request.check()
    # The folder for what is made has the student's name, so the student comes first.
    if request.student is None:
        _refuse_settings_of_a_student(request)
    elif isinstance(request.student, (str, Path)):
        check_student(request.student, request.subfolder)
    # The first of several processes writes, and may have begun.
    if is_first():
        check_output(request.output, request.overwrite, "piflow sample", is_of_sample)
    # One that is in memory has its teacher and its base.
    if request.student is None or isinstance(request.student, (str, Path)):
        if request.teacher is not None:
            load(request.teacher)
        if request.base is not None:
            require_base(request.base)
    for path in request.references:
        if not Path(path).is_file():
            raise UsageError(f"--reference {path}: there is no such file", "name a picture: --reference PICTURE")
    # Beside prompts of its own a file is refused, whether it is there or not.
    if request.prompts_from is not None and not request.prompts:
        require_prompts(request.prompts_from, request.text_column)


def _refuse_settings_of_a_student(request: SampleRequest) -> None:
    of_policy = (request.shift, request.substeps, request.temperature, request.stochastic or None)
    if any(value is not None for value in of_policy):
        raise UsageError(
            "--shift, --substeps, --temperature and --stochastic are settings of a policy, and a teacher has none",
            "leave them out, or name a student: piflow sample RUN",
        )
    if request.subfolder is not None:
        raise UsageError(
            "--subfolder is a folder inside a student, and none is given",
            "leave it out, or name a student: piflow sample RUN",
        )


def is_of_sample(path: Path) -> bool:
    """Whether `piflow sample` wrote ``path``: its recipe says so, or without recipes that of the grid beside it."""
    if stood_aside(path, _WRITTEN) is not None:
        return True
    if _WRITTEN.fullmatch(path.name) is None:
        return False
    grid = path.with_name(GRID_NAME)
    # The recipe of a video is read off the GIF, which is always beside the MP4.
    told = path.with_suffix(GIF) if path.suffix == MP4 else path
    return is_grid(recipe_of(grid)) or (path != grid and recipe_of(told) is not None)
