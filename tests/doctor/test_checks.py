"""What the checks say of machines that lack something: of each, what a person is to type."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from piflow_cli.core.kernels import trial
from piflow_cli.core.policies.kinds import ROWS
from piflow_cli.doctor import CHECKS, computing, examine, installed, machine, places, rollouts

ROW = ["580.1", "NVIDIA H100", "81559 MiB"]


@pytest.fixture
def one_gpu(monkeypatch) -> None:
    """torch sees a GPU, on which nothing can be computed."""
    monkeypatch.setattr(computing, "chosen_device", lambda: torch.device("cuda", 0))


def test_names_are_told_apart() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.purpose and not check.purpose.endswith(".") for check in CHECKS)


def test_an_old_python_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(machine, "OLDEST_PYTHON", (99, 0))
    found = machine.python()
    assert found.state == "broken" and found.hint == "install Python 3.10 or later, and this package in it"


@pytest.mark.parametrize(
    ("number", "state", "hint"),
    [("2.5.1", "broken", 'pip install "torch>=2.6"'), ("2.6.0+cpu", "works", None), ("10.0", "works", None)],
)
def test_torch_is_new_enough(monkeypatch, number: str, state: str, hint: str | None) -> None:
    monkeypatch.setattr(torch, "__version__", number)
    found = machine.torch_build()
    assert (found.state, found.hint) == (state, hint) and found.says.startswith(f"{number}, built for ")


def test_a_torch_that_is_not_there_or_does_not_load(monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(machine, "find_spec", lambda name: None)
        assert machine.torch_build().hint == "pip install torch"
    monkeypatch.setattr(machine, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = machine.torch_build()
    assert found.state == "broken" and found.hint == "pip install --force-reinstall torch"


def no_gpu(monkeypatch, cuda: str | None, seen: list[list[str]], init=lambda: None) -> None:
    monkeypatch.setattr(machine, "seen_by_the_driver", lambda: seen)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False, init=init))
    monkeypatch.setattr(torch.version, "cuda", cuda)


def too_old() -> None:
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")


def test_a_gpu_that_torch_does_not_use_is_a_fault(monkeypatch) -> None:
    no_gpu(monkeypatch, None, [ROW])
    found = machine.driver()
    assert found.state == "broken" and found.says.endswith(
        "NVIDIA H100, and torch does not use it: this build has no CUDA"
    )
    no_gpu(monkeypatch, "13.0", [ROW], too_old)
    assert machine.driver().says.endswith("is too old (found version 11040).")
    no_gpu(monkeypatch, "13.0", [ROW])
    assert machine.driver().hint == "unset CUDA_VISIBLE_DEVICES"
    no_gpu(monkeypatch, "13.0", [])
    assert machine.driver().state == machine.gpus().state == "missing"


def test_the_answer_of_nvidia_smi_is_read(monkeypatch, tmp_path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{', '.join(ROW)}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine.seen_by_the_driver() == [ROW]
    program.write_text("#!/bin/sh\necho 'has failed because it could not communicate, with, the driver'\nexit 9\n")
    assert machine.seen_by_the_driver() == []


@pytest.mark.parametrize(
    ("fault", "state", "said"),
    [
        (None, "works", "Triton launches"),
        ("Triton is not installed: pip install triton", "missing", "pip install triton"),
        ("a trial launch failed: there is no C compiler", "broken", "many times slower: a trial launch failed"),
    ],
)
def test_a_launch_that_fails_is_a_fault_and_no_triton_is_none(monkeypatch, one_gpu, fault, state, said) -> None:
    monkeypatch.setattr(trial, "launch_fault", lambda device: fault)
    found = computing.kernels()
    assert found.state == state and said in found.says


def test_wrong_numbers_are_faults(monkeypatch) -> None:
    monkeypatch.setattr(rollouts, "CLOSE", 1e-12)
    found = rollouts.rollout()
    assert found.state == "broken" and found.hint.startswith("export PIFLOW_KERNELS=off")
    monkeypatch.setattr(computing, "_stores_fp8", lambda device: False)
    assert computing.formats().hint.endswith("pip install -U torch")


def test_a_policy_whose_rollout_is_wrong_is_named(monkeypatch) -> None:
    right = rollouts.rollout()
    assert right.state == "works" and set(right.facts["errors"]) == set(ROWS)
    whole = rollouts._error
    monkeypatch.setattr(rollouts, "_error", lambda kind, device: math.nan if kind == "dx" else whole(kind, device))
    found = rollouts.rollout()
    assert found.state == "broken" and "the policy dx is" in found.says


def test_a_package_is_there_missing_or_does_not_import(monkeypatch, tmp_path) -> None:
    assert installed.package("numpy", "numpy", True).state == "works"
    found = installed.package("lpips_of_nobody", "lpips-of-nobody", True)
    assert (found.state, found.hint) == ("missing", "pip install lpips-of-nobody")
    (tmp_path / "damaged_package.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installed.package("damaged_package", "damaged-package", True)
    assert found.state == "broken" and "nms does not exist" in found.says
    assert found.hint == "install it again, beside this torch: pip install damaged-package"


def test_a_cache_that_cannot_be_written_to_is_a_fault(monkeypatch, tmp_path) -> None:
    (tmp_path / "piflow").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = places.cache()
    assert found.state == "broken" and "is a file" in found.says and "--cache DIR" not in found.hint
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "piflow"))
    assert places.hub_cache().hint == "name a folder: export HF_HOME=DIR"


def test_what_is_unset_is_no_longer_said(monkeypatch, tmp_path) -> None:
    """Variables are read when packages are imported, so in a process of its own."""
    hub = [check for check in CHECKS if check.name in ("Hub", "Hub cache")]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder, offline = (row.finding for row in examine(hub))
    assert offline.hint == "unset HF_HUB_OFFLINE" and folder.facts["folder"] == str(tmp_path / "hf" / "hub")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    _, known = (row.finding for row in examine(hub))
    assert known.state == "works" and "secret" not in repr(known)
    monkeypatch.delenv("HF_TOKEN")
    assert examine(hub)[1].finding.hint == "hf auth login"
    assert not (tmp_path / "hf").exists()


def test_kernels_that_are_switched_off_are_said(monkeypatch, one_gpu) -> None:
    monkeypatch.setenv("PIFLOW_KERNELS", "off")
    assert computing.kernels().hint == "unset PIFLOW_KERNELS"
