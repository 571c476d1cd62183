"""How torch asks a GPU for memory: in segments that grow, unless the user has said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from piflow_cli.system.allocator import VARIABLES, use_segments_that_grow


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


def test_segments_grow_where_nothing_else_is_said(monkeypatch) -> None:
    use_segments_that_grow()
    assert os.environ.pop("PYTORCH_CUDA_ALLOC_CONF") == "expandable_segments:True"


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_says_stays(name: str, monkeypatch) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:64")
    use_segments_that_grow()
    assert {key: os.environ[key] for key in VARIABLES if key in os.environ} == {name: "max_split_size_mb:64"}


def test_other_systems_have_no_such_segments(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    use_segments_that_grow()
    assert not any(key in os.environ for key in VARIABLES)


def test_every_command_asks_before_torch_is_imported() -> None:
    code = "import sys\nfrom piflow_cli.app import main\nmain(['--version'])\nassert 'torch' not in sys.modules\n"
    code += "import os; print(os.environ['PYTORCH_CUDA_ALLOC_CONF'])"
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split()[-1] == "expandable_segments:True"
