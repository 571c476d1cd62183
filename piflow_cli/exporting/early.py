"""What `piflow export` refuses before torch is loaded, which takes seconds."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ..errors import UsageError
from ..presets.resolve import load
from ..sampling.limits import faults_of, listed
from ..students.locate import check_student
from ..system.outputs import check_output
from ..weights.digests import MANIFEST, read_manifest
from ..weights.locate import require_base
from .formats import FORMATS
from .request import CARD_NAME, DTYPES, TAG, ExportRequest


def check(request: ExportRequest) -> None:
    """Raise UsageError for what does not go together, is not there, or is there where the export is to go."""
    if request.format not in FORMATS:
        raise UsageError(f"--format {request.format}: no such format", f"choose one of {', '.join(FORMATS)}")
    if request.dtype is not None and request.dtype not in DTYPES:
        raise UsageError(f"--dtype {request.dtype}: no such dtype", f"choose one of {', '.join(DTYPES)}")
    if faults := list(faults_of(request)):
        raise UsageError(listed(faults), "leave it out, or give another")
    if request.changed and not FORMATS[request.format].mends:
        mending = " or ".join(kind.name for kind in FORMATS.values() if kind.mends)
        raise UsageError(
            f"--accept-changed is for --format {mending}",
            f"write the adapter anew first, with --format {mending}, then export that",
        )
    if request.private and request.push_to_hub is None:
        raise UsageError("--private is of a repository, and none is named", "add --push-to-hub OWNER/NAME")
    # The folder for what is made has the student's name, so the student comes first.
    check_student(request.student, request.subfolder)
    check_output(request.output, request.overwrite, "piflow export", is_of_export, whole=True)
    if request.teacher is not None:
        load(request.teacher)
    if request.base is not None:
        require_base(request.base)
    if request.push_to_hub is not None:
        _check_repository(request.push_to_hub)


def _check_repository(repository: str) -> None:
    import huggingface_hub

    if repository.count("/") != 1:
        raise UsageError(f"--push-to-hub {repository}: no name of a repository", "write it as owner/name")
    huggingface_hub.utils.validate_repo_id(repository)
    if huggingface_hub.get_token() is None:
        raise UsageError("--push-to-hub: the Hub wants to know who asks", "hf auth login")


def is_of_export(path: Path) -> bool:
    """Whether `piflow export` wrote an entry of its output folder: the card, or what the list of files names.

    A card without a list proves nothing: whoever clones a student's repository keeps files of their own beside it.
    """
    card = path.with_name(CARD_NAME)
    if not card.is_file() or f"- {TAG}\n" not in card.read_text(encoding="utf-8", errors="replace"):
        return False
    try:
        names = read_manifest(path.parent)
    except (OSError, ValueError):
        return False
    if not path.is_dir():
        return path.name in (CARD_NAME, MANIFEST, *names)
    below = (found.relative_to(path.parent).as_posix() for found in path.rglob("*") if not found.is_dir())
    return any(PurePosixPath(name).parts[0] == path.name for name in names) and all(name in names for name in below)
