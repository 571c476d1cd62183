"""Trackers that are installed here, themselves; `python tests/real_trackers.py` installs and tries all of them."""

from __future__ import annotations

import pytest
from real_trackers import READERS, check

from piflow_cli.errors import UsageError
from piflow_cli.system.trackers import TRACKERS, tracker_of


def test_every_tracker_is_tried_but_the_one_of_the_suite_itself() -> None:
    assert set(READERS) == {*TRACKERS} - {"tensorboard"}


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_numbers_and_pictures_arrive(name, tmp_path, monkeypatch) -> None:
    """Its readers import the package, which may write where it likes: only into this folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    try:
        tracker_of(name)
    except UsageError as error:
        pytest.skip(error.message)
    check(name, tmp_path)
