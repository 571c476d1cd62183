"""What `piflow eval` refuses before torch is loaded, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from ..data.places import require_prompts
from ..data.prompts import refuse_column_of_lines
from ..errors import UsageError
from ..presets.resolve import load
from ..ranks import is_first
from ..students.locate import check_student
from ..system.files import cache_folder, check_writable
from ..system.outputs import check_output
from ..weights.locate import require_base
from .extractor_kinds import extractor_kind
from .limits import check_limits
from .reference_kinds import TEACHER, check_reference
from .report_folder import is_of_report
from .request import EvalRequest


def check(request: EvalRequest) -> None:
    """Raise UsageError for what does not go together, is not there, or is there where the report is to go."""
    request.check()
    check_limits(request.limits, request.measures_of_videos)
    # The folder for what is made has a student's name, so students come first.
    for student in request.students:
        check_student(student, request.subfolder)
    # The first of several processes writes, and may have begun.
    if is_first():
        _check_outputs(request)
    if request.teacher is not None:
        load(request.teacher)
    if request.base is not None:
        require_base(request.base)
    for name in request.extractors:
        extractor_kind(name)
    if request.images is not None:
        check_folder(request.images)
    if request.reference not in (None, TEACHER):
        check_reference(request.reference)
    refuse_column_of_lines(request.prompts_from, request.text_column)
    if request.prompts_from is not None:
        require_prompts(request.prompts_from, request.text_column)


def check_folder(path: Path) -> None:
    """Raise UsageError where ``path`` is no folder."""
    if not path.is_dir():
        what = f"{path} is no folder" if path.exists() else f"there is no folder {path}"
        raise UsageError(what, "name a folder of pictures")


def _check_outputs(request: EvalRequest) -> None:
    """Refuse folders and files that cannot be written to, or that hold something which would be lost."""
    if (saved := request.save_statistics) is not None:
        check_writable(saved.parent, "--save-statistics FILE", f"--save-statistics {saved}: ")
        if saved.exists():
            _check_statistics(saved, request.overwrite)
    if request.measured:
        if request.output is not None:
            check_output(request.output, request.overwrite, "piflow eval", is_of_report)
        cache_folder(request.cache)


def _check_statistics(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file unasked, or one that holds no statistics of ours."""
    if not overwrite:
        raise UsageError(
            f"--save-statistics {path}: it is there already",
            "name another file with --save-statistics FILE, or replace it with --overwrite",
        )
    from .extractors.features import are_statistics

    if not are_statistics(path):
        raise UsageError(
            f"--save-statistics {path}: piflow eval did not write it", "name another file: --save-statistics FILE"
        )
