"""kill -9 at any moment of a run that checkpoints every step: no more is lost than the step in flight, and started
again the run ends with the weights of one that nothing disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed_runs.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def kills(*given: object) -> dict:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, given)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_three_kills_lose_the_step_in_flight_alone(tiny_teacher, tmp_path) -> None:
    found = kills(tiny_teacher, tmp_path, 3, 0, "--iterations", 12)
    assert found["faults"] == [] and found["kills"] == {"start": 1, "step": 1, "save": 1}


@pytest.mark.long
def test_fifty_kills_of_the_digits_run(tmp_path) -> None:
    found = kills("digits", tmp_path, 50, 1, "--iterations", 40, "--batch-size", 16)
    assert found["faults"] == [] and sum(found["kills"].values()) == 50
    assert min(found["kills"].values()) >= 16
