"""Folders in use: nobody is alone in one that is held, and it is let go of with its holder."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from piflow_cli.system.holding import Holding, alone_in, fcntl

pytestmark = pytest.mark.skipif(fcntl is None, reason="the system locks no folders")


def is_free(folder: Path) -> bool:
    with alone_in(folder) as alone:
        return alone


def test_a_folder_is_in_use_while_one_of_its_holders_is_there(tmp_path: Path) -> None:
    one, other = Holding(tmp_path), Holding(tmp_path)
    assert is_free(tmp_path)
    one.begin()
    other.begin()
    assert not is_free(tmp_path)
    del one
    gc.collect()
    assert not is_free(tmp_path)
    del other
    gc.collect()
    assert is_free(tmp_path) and list(tmp_path.iterdir()) == []


def test_who_is_alone_keeps_others_out_until_it_has_done(tmp_path: Path) -> None:
    late = Holding(tmp_path)
    with alone_in(tmp_path) as alone:
        assert alone
        late.begin()
    assert is_free(tmp_path)
    late.begin()
    assert not is_free(tmp_path)


def test_a_folder_that_is_not_there_yet_is_held_from_when_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    holding = Holding(folder)
    holding.begin()
    assert not folder.exists() and not is_free(folder)
    folder.mkdir()
    assert is_free(folder)
    holding.begin()
    assert not is_free(folder)
