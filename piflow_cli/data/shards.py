"""Webdataset shards: uncompressed tar files in which a sample is the members of one name.

They are read with the standard library's tarfile: grouping members by name takes a dozen lines, and offsets into an
uncompressed tar give random access, which webdataset's streams do not.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..errors import UsageError
from ..wording import few
from .picture import Picture, TextKind, caption_of, unused
from .sample_kinds import OF_PICTURES, SampleKind

NAMES_SHOWN = 5

Members = dict[str, tarfile.TarInfo]
"""The members of a sample, by suffix."""


def pictures_of_shards(shards: Sequence[Path], told: TextKind, kind: SampleKind = OF_PICTURES) -> list[Picture]:
    """All pictures of ``shards``, or what ``kind`` says, with what is ``told`` of them.

    Members that belong to no picture are among them, and say so when they are read.

    Raises UsageError, with all their names, where shards are damaged or have two members for one place in a sample, and
    where there is no picture in any.
    """
    pictures, damaged, twice = [], [], []
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as tar:
                members = [member for member in _files_in(tar) if not _hidden(member.name)]
                # Cut between two members, it would lack some without a word.
                if shard.stat().st_size < tar.offset + tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("unexpected end of data")
        except (tarfile.TarError, EOFError) as error:
            damaged.append(f"{shard}: {error}")
            continue
        groups = grouped(members, kind.suffixes)
        kept = {member for parts in groups.values() for member in parts.values()}
        twice += [f"{shard}: {member.name}" for member in members if member not in kept]
        for name, parts in groups.items():
            pictures += _of_group(shard, name, parts, told, kind)
    if damaged:
        raise UsageError(
            "shards that are cut short or no uncompressed tar:\n  " + "\n  ".join(damaged),
            "write or download them again",
        )
    if twice:
        what = "members that another one of the same name and suffix takes the place of:\n  " + few(
            twice, NAMES_SHOWN, "\n  "
        )
        raise UsageError(what, "give each sample a name of its own")
    if not any(picture.file is not None for picture in pictures):
        raise UsageError(
            f"the shards of {shards[0].parent} hold no {kind.names} ({', '.join(kind.suffixes)})",
            f"add NAME{kind.example}, with NAME.txt beside it",
        )
    return pictures


def _files_in(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members that are files; a link to one before it is that file under another name, as tar writes them."""
    found: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        if member.isfile():
            found[member.name] = member
        elif member.islnk() and member.linkname in found:
            content = found[member.linkname]
            found[member.name] = member
            member.offset_data, member.size = content.offset_data, content.size
        else:
            continue
        yield member


def grouped(members: Sequence[tarfile.TarInfo], suffixes: Collection[str]) -> dict[str, Members]:
    """Members by sample, then by suffix; ``suffixes``: those of pictures.

    The name of a sample is that of its picture up to the last dot, so that names may have dots; other members belong to
    the sample with the longest name that theirs begins with, up to a dot. What belongs to none is cut at its first dot,
    as webdataset cuts all names.
    """
    names = {stem for stem, suffix in (_at_last_dot(member.name) for member in members) if suffix in suffixes}
    groups: dict[str, Members] = {}
    for member in members:
        stem, suffix = _at_last_dot(member.name)
        if suffix not in suffixes:
            stem, suffix = _belonging(member.name, names)
        groups.setdefault(stem, {})[suffix] = member
    return groups


def _belonging(name: str, samples: Collection[str]) -> tuple[str, str]:
    """The sample that a member belongs to, and what follows the sample's name in the member's."""
    folder, slash, last = name.rpartition("/")
    parts = last.split(".")
    for count in range(len(parts) - 1, 0, -1):
        stem = folder + slash + ".".join(parts[:count])
        if stem in samples or count == 1:
            return stem, "." + ".".join(parts[count:]).lower()
    return name, ""


def _at_last_dot(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.rpartition(".")
    return (folder + slash + stem, dot + suffix.lower()) if dot else (name, "")


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def _of_group(shard: Path, name: str, parts: Members, told: TextKind, kind: SampleKind) -> Iterator[Picture]:
    """The pictures of a sample, with its caption.

    A sample without a picture gives all that might be one, or else its caption itself.
    """
    caption = _caption(shard, parts, told)
    chosen = [suffix for suffix in parts if suffix in kind.suffixes] or [
        suffix for suffix in parts if suffix not in told.members
    ]
    for suffix in sorted(chosen):
        member = parts[suffix]
        yield Picture(f"{shard.name}/{name}{suffix}", caption, partial(_read, shard, member), shard, member.offset_data)
    if not chosen:
        yield unused(f"{shard.name}/{name}{min(parts)}", f"there is no {kind.name} with it")


def _caption(shard: Path, parts: Mapping[str, tarfile.TarInfo], told: TextKind) -> str | None:
    for suffix in told.members:
        if suffix in parts:
            data = _read(shard, parts[suffix])
            return caption_of(told.text(_json_value(data, told.column) if suffix == ".json" else _text(data)))
    return None


def _read(shard: Path, member: tarfile.TarInfo) -> bytes:
    with shard.open("rb") as file:
        file.seek(member.offset_data)
        return file.read(member.size)


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _json_value(data: bytes, column: str) -> object:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value.get(column) if isinstance(value, dict) else None
