"""The checksums of an export's files, in the form that ``sha256sum -c`` reads."""

from __future__ import annotations

from pathlib import Path

from ..errors import RunError
from ..files import files_digest
from .card import CARD_NAME

MANIFEST_NAME = "SHA256SUMS"
# People write on the card.
UNLISTED = (MANIFEST_NAME, CARD_NAME)


def write_manifest(folder: Path) -> None:
    """List the SHA-256 of every file below ``folder`` but the card, and read them all again; raises RunError where one differs."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    lines = [f"{files_digest([folder / name])}  {name}\n" for name in names if name not in UNLISTED]
    (folder / MANIFEST_NAME).write_text("".join(lines), encoding="utf-8")
    if changed := changed_files(folder):
        raise RunError(f"what was written does not read back: {changed[0]}", "look after the disk, then run the same command again")


def changed_files(folder: Path) -> list[str]:
    """The files of an export that are missing, or are not as its manifest has them."""
    rows = (line.split("  ", 1) for line in (folder / MANIFEST_NAME).read_text(encoding="utf-8").splitlines())
    return [name for digest, name in rows if not (folder / name).is_file() or files_digest([folder / name]) != digest]
