"""The device of a run: CUDA or the CPU, and never one that lacks float64."""

from __future__ import annotations

import pytest
import torch

from piflow_cli.devices import choose_device
from piflow_cli.errors import UsageError


def test_a_mac_computes_on_its_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="float64, which MPS lacks"):
        choose_device("mps")


def test_devices_that_are_not_there_are_counted(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda") and choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="there are 2 CUDA devices"):
        choose_device("cuda:2")
