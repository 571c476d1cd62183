"""The cache's folder: what is in it by kind, and that only what is ours, and in nobody's use, goes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from piflow_cli.system.files import cache_key
from piflow_cli.weights.cache import Cache, ShardedCache
from piflow_cli.weights.cache_folder import IN_USE, entries_in, is_damaged, is_unused, remove
from piflow_cli.weights.cache_kinds import EVAL, IDENTITY, PICTURES, ROWS, STATISTICS, TEACHERS, TEXTS, WEIGHTS
from piflow_cli.weights.digests import write_manifest
from piflow_cli.weights.sealed import save_sealed

ENCODERS = "0123456789abcdef"
STRANGE = ("eval/aa/notes.txt", "models/model.safetensors", "readme.md", f"{TEACHERS}/mine/config.json", ".hidden")


def fill(root: Path) -> None:
    """An entry of every kind, half of one that was being written, and files that are not ours."""
    for folder in (EVAL, STATISTICS, PICTURES):
        Cache(root / folder).put(cache_key(of=folder), {"rows": torch.arange(8.0)})
    for folder in (TEXTS, "latents"):
        with ShardedCache(root / ENCODERS / folder).writer() as writer:
            writer.add(cache_key(of=folder), {"rows": torch.arange(8.0)}, "a prompt")
    (root / ENCODERS / IDENTITY).write_text("{}")
    teacher = root / TEACHERS / f"sit-{ENCODERS}"
    teacher.mkdir(parents=True)
    (teacher / "config.json").write_text("{}")
    write_manifest(teacher, ["config.json"])
    save_sealed({"weight": torch.ones(2)}, root / WEIGHTS / "network.safetensors", {})
    (root / WEIGHTS / "pt_inception.pth").write_bytes(b"12345")
    half = next((root / EVAL).rglob("*.safetensors"))
    half.with_name(f".{half.name}.0123456789abcdef.tmp").write_bytes(b"1")
    for name in STRANGE:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("of somebody")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "cache")
    return tmp_path / "cache"


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def removed(root: Path, entries=None):
    return remove(entries_in(root) if entries is None else entries, root, lambda entry: None)


def test_every_kind_is_found_with_its_bytes_and_nothing_else(root: Path) -> None:
    found = [entry for entry in entries_in(root) if not entry.left_over]
    assert sorted(entry.kind.name for entry in found) == sorted(ROWS)
    (inception,) = [entry for entry in found if entry.path.name == "pt_inception.pth"]
    assert (inception.kind.name, inception.bytes) == ("downloads", 5)
    (half,) = [entry for entry in entries_in(root) if entry.left_over]
    assert (half.kind.name, half.bytes) == ("states", 1)


def test_all_that_is_ours_goes_and_what_is_not_stays(root: Path) -> None:
    found = entries_in(root)
    told = removed(root)
    assert files(root) == set(STRANGE) and told.stayed == {}
    assert told.bytes == sum(entry.bytes for entry in found) and len(told.removed) == len(found)
    # The folders go with their last entry.
    assert not (root / ENCODERS).exists() and not (root / STATISTICS).exists()


def test_what_is_used_stays_until_its_user_has_gone(root: Path) -> None:
    used = Cache(root / EVAL)
    assert used.get(cache_key(of=EVAL)) is not None
    texts = ShardedCache(root / ENCODERS / TEXTS)
    texts.scan()
    with FileLock(root / TEACHERS / f".sit-{ENCODERS}.lock"):
        told = removed(root)
    assert set(told.stayed.values()) == {IN_USE}
    assert {entry.kind.name for entry in entries_in(root)} == {"states", "prompts", TEACHERS}
    assert texts[cache_key(of=TEXTS)]["rows"].tolist() == list(range(8))
    del used, texts
    assert removed(root).stayed == {} and entries_in(root) == []


def test_what_was_not_used_for_days_is_known_by_its_times(root: Path) -> None:
    (entry,) = [one for one in entries_in(root) if one.kind.name == STATISTICS]
    week = time.time() - 7 * 24 * 3600
    os.utime(entry.path, (week, week))
    (entry,) = [one for one in entries_in(root) if one.kind.name == STATISTICS]
    assert is_unused(entry, 6.9) and not is_unused(entry, 7.1)
    # Read lately, it was used.
    os.utime(entry.path, (time.time(), week))
    (entry,) = [one for one in entries_in(root) if one.kind.name == STATISTICS]
    assert not is_unused(entry, 6.9)


@pytest.mark.parametrize("kind", [name for name, row in ROWS.items() if row.whole is not None])
def test_a_changed_byte_is_damage_and_to_look_is_no_use(root: Path, kind: str) -> None:
    (entry,) = [one for one in entries_in(root) if one.kind.name == kind and not one.left_over]
    assert not is_damaged(entry)
    changed = entry.path / "config.json" if entry.path.is_dir() else entry.path
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    os.utime(changed, (1_000_000_000, 1_000_000_000))
    assert is_damaged(entry)
    assert (changed.stat().st_atime, changed.stat().st_mtime) == (1_000_000_000, 1_000_000_000)


def test_links_are_somebodys_own_arrangement(root: Path, tmp_path: Path) -> None:
    shutil.move(root / EVAL, tmp_path / "elsewhere")
    (root / EVAL).symlink_to(tmp_path / "elsewhere")
    (root / WEIGHTS / "other.pth").symlink_to(tmp_path / "elsewhere")
    removed(root)
    assert files(tmp_path / "elsewhere") and (root / WEIGHTS / "other.pth").is_symlink()


def test_where_there_is_no_cache_nothing_is_found(tmp_path: Path) -> None:
    assert entries_in(tmp_path / "nothing") == [] and removed(tmp_path / "nothing").removed == {}
