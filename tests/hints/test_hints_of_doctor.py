"""What `piflow doctor` says to type beside cases_of_doctor.yaml: of packages, in a shell, and in plain words."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hint_faults import FAULTS
from hint_programs import do, outside
from hint_texts import PACKAGE, TYPED, hints_of

from piflow_cli.doctor import CHECKS, installed
from piflow_cli.doctor.findings import Probe

# What no one command does, and why.
IN_WORDS = {
    "install Python 3.10 or later, and this package in it": "every system has a way of its own",
    "update the driver, or install a torch that was built for an older CUDA": (
        "a driver is installed by the system; a torch for an older CUDA is on an index of its own, which changes"
    ),
    "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\"": "it downloads 240 MB",
    "the lines above say what is wrong and, where it is known, what to type": "the lines above have the hints",
}
# The command with the one check, in a process of its own.
DOCTOR = """
import sys
from piflow_cli import doctor
from piflow_cli.app import main

doctor.CHECKS = [check for check in doctor.CHECKS if check.name == "Hub cache"]
if __name__ == "__main__":
    main(["doctor", "--json"])
"""
PACKAGES = [check for check in CHECKS if getattr(check.look, "func", None) is installed.package]


def test_what_is_said_in_words_alone_has_a_reason() -> None:
    modules = [*sorted((PACKAGE / "doctor").glob("*.py")), PACKAGE / "commands" / "doctor.py"]
    assert {hint for module in modules for _, hint in hints_of(module) if not TYPED.search(hint)} == IN_WORDS.keys()
    assert all(IN_WORDS.values())


@pytest.mark.parametrize("check", PACKAGES, ids=lambda check: check.name)
def test_a_package_that_is_missing_is_brought_by_what_is_typed(check: Probe) -> None:
    module, *_ = check.look.args
    with FAULTS["hidden"](module), pytest.MonkeyPatch.context() as patch:
        patch.setattr(installed, "find_spec", lambda name: None)
        found = check.find()
    assert found.state == "missing"
    do(outside(found.hint), module, ())


def asked(before: str, environment: dict[str, str], folder: Path) -> dict:
    """What the check of the Hub's cache says in a shell in which ``before`` was typed."""
    (folder / "doctor.py").write_text(DOCTOR)
    typed = f'{before}\n"$0" doctor.py'
    told = os.environ | environment
    done = subprocess.run(["bash", "-c", typed, sys.executable], cwd=folder, env=told, capture_output=True, text=True)
    (row,) = json.loads(done.stdout)["checks"]
    return row


def test_the_cache_of_the_hub_is_where_the_shell_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ask = partial(asked, environment={"HF_HOME": str(tmp_path / "file")}, folder=tmp_path)
    wrong = ask("")
    assert (wrong["state"], wrong["hint"]) == ("broken", "name a folder: export HF_HOME=DIR")
    (typed,) = [part for part in wrong["hint"].split(": ") if part.startswith("export ")]
    right = ask(typed.replace("DIR", shlex.quote(str(tmp_path / "of mine"))))
    assert (right["state"], right["hint"]) == ("works", None)
    assert right["facts"]["folder"] == str(tmp_path / "of mine" / "hub")
