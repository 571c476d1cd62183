"""What `piflow inspect-policy` refuses before torch is loaded, which takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

from ..data.places import require_prompts
from ..data.prompts import read_prompts
from ..errors import UsageError
from ..presets.resolve import load
from ..students.locate import check_student
from ..system.outputs import check_output
from ..weights.locate import require_base
from .request import JSON_NAME, InspectRequest

# The pictures of a report have a row for each: more make files that few viewers open.
MOST_SEEDS = 128


def check(request: InspectRequest) -> None:
    """Raise UsageError for what does not go together, is not there, or is there where the report is to go."""
    request.check()
    # The folder for what is made has a student's name, so students come first.
    for student in request.students:
        check_student(student, request.subfolder)
    if request.output is not None:
        check_output(request.output, request.overwrite, "piflow inspect-policy", is_of_inspection, whole=True)
    if request.teacher is not None:
        load(request.teacher)
    if request.base is not None:
        require_base(request.base)
    if request.prompts_from is not None:
        require_prompts(request.prompts_from, request.text_column)
    _check_count(request)


def is_of_inspection(path: Path) -> bool:
    """Whether `piflow inspect-policy` wrote an entry of its output folder."""
    if not _is_report(path.with_name(JSON_NAME)) or path.is_dir():
        return False
    # Names of pictures are those of the policies, which need torch.
    from .report import is_of_report

    return is_of_report(path.name)


def _check_count(request: InspectRequest) -> None:
    """Refuse more pictures than a report can show, before any is made."""
    if request.seeds is None:
        return
    given = request.prompts_from
    prompts = len(request.prompts if given is None else read_prompts(given, request.text_column))
    if (total := len(request.seeds) * max(1, prompts)) > MOST_SEEDS:
        raise UsageError(
            f"--seeds: that makes {total:,} pictures, and a report has room for {MOST_SEEDS}",
            "name fewer: --seeds 0-15"
            if prompts <= 1
            else "name fewer: --seeds 0"
            if prompts <= MOST_SEEDS
            else "name a file of fewer prompts: --prompts FILE",
        )


def _is_report(path: Path) -> bool:
    try:
        return "students" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return False
