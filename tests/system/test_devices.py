"""The device of a run: CUDA or the CPU, and never one that lacks float64."""

from __future__ import annotations

import os

import pytest
import torch

from piflow_cli.errors import UsageError
from piflow_cli.evaluation.overlap import has_room
from piflow_cli.system.devices import choose_device, usable_cores


def test_a_mac_computes_on_its_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="float64, which MPS lacks"):
        choose_device("mps")


def test_devices_that_are_not_there_are_counted(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("auto") == torch.device("cuda") and current == []
    # Libraries ask torch for the current device.
    assert choose_device("cuda:1") == torch.device("cuda:1") and current == [torch.device("cuda:1")]
    with pytest.raises(UsageError, match="there are 2 CUDA devices"):
        choose_device("cuda:2")
    assert len(current) == 1


def test_cores_that_the_process_may_not_use_do_not_count(monkeypatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 64


@pytest.mark.parametrize(("cores", "threads", "room"), [(2, 1, True), (1, 1, False), (16, 8, True), (16, 16, False)])
def test_features_have_a_thread_of_their_own_where_cores_are_left(
    monkeypatch, cores: int, threads: int, room: bool
) -> None:
    monkeypatch.setattr("piflow_cli.evaluation.overlap.usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert has_room(torch.device("cpu")) == room
