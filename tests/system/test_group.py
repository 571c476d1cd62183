"""Processes as a group: what each is to do, what the first hears, and one message where any of them fails."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thread_processes import in_threads

from piflow_cli.errors import PiflowError, Reported, RunError, UsageError
from piflow_cli.system import group
from piflow_cli.system.group import Processes, open_processes

CPU = torch.device("cpu")


@given(items=st.lists(st.integers()), count=st.integers(1, 9))
def test_shares_and_turns_hold_every_item_once_and_agree(items: list[int], count: int) -> None:
    processes = [Processes(CPU, rank, count) for rank in range(count)]
    turns = list(processes[0].turns(items))
    assert [item for turn in turns for item in turn] == items
    for one in processes:
        assert list(one.share(items)) == [item for turn in turns for item in one.share(turn)]
    assert sorted(item for one in processes for item in one.share(items)) == sorted(items)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_first_hears_what_all_found_and_all_hear_what_it_found(count: int) -> None:
    def work(processes: Processes) -> tuple:
        asked.append(processes.rank)
        return (
            processes.together(lambda: processes.rank),
            processes.gather(lambda: torch.full((2,), processes.rank)),
            processes.of_first(lambda: (alone.append(processes.rank), "told")[1]),
        )

    asked: list[int] = []
    alone: list[int] = []
    found = in_threads(count, work) if count > 1 else [work(Processes(CPU))]
    assert [own for own, _, _ in found] == list(range(count)) == sorted(asked)
    assert [part.tolist() for part in found[0][1]] == [[rank] * 2 for rank in range(count)]
    assert all(gathered == [] for _, gathered, _ in found[1:])
    assert [told for _, _, told in found] == ["told"] * count and alone == [0]


@pytest.mark.parametrize("failing", [{0}, {1}, {2}, {1, 2}, {0, 1, 2}])
@pytest.mark.parametrize("method", ["together", "gather"])
def test_an_error_of_any_ends_all_and_the_first_alone_tells_it(failing: set[int], method: str) -> None:
    def work(processes: Processes) -> None:
        def fails() -> None:
            if processes.rank in failing:
                raise UsageError(f"process {processes.rank} cannot", "let it be")

        getattr(processes, method)(fails)

    first, *others = in_threads(3, work)
    assert isinstance(first, UsageError) and first.message == f"process {min(failing)} cannot"
    assert first.hint == "let it be"
    assert all(isinstance(error, Reported) and error.exit_code == UsageError.exit_code for error in others)


def test_what_a_library_raises_is_explained_on_its_way() -> None:
    def work(processes: Processes) -> None:
        processes.together(lambda: open("/no/such/file") if processes.rank else None)

    first, other = in_threads(2, work)
    assert isinstance(first, PiflowError) and "/no/such/file" in first.message and isinstance(other, Reported)


def test_a_fault_of_the_program_is_what_python_calls_it() -> None:
    first, other = in_threads(2, lambda processes: processes.together(lambda: 1 / processes.rank))
    assert isinstance(first, ZeroDivisionError) and isinstance(other, threading.BrokenBarrierError)


def test_where_the_first_alone_fails_the_others_hear_of_it() -> None:
    def work(processes: Processes) -> None:
        processes.of_first(lambda: open("/no/such/file"))

    first, other = in_threads(2, work)
    assert isinstance(first, PiflowError) and isinstance(other, Reported) and other.exit_code == first.exit_code


@pytest.mark.parametrize(("rank", "kind"), [("0", RunError), ("1", Reported)])
def test_of_processes_that_are_left_alone_the_first_says_so(monkeypatch, rank: str, kind: type[PiflowError]) -> None:
    """What launched them has most often ended them by then, and says which process was the first to go."""
    waited: list[float] = []

    def closed(*arguments: object, **options: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(group.time, "sleep", waited.append)
    monkeypatch.setattr(torch.distributed, "new_group", lambda **options: None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", closed)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(kind) as caught:
        Processes(CPU, int(rank), 2, group._OverGloo()).together(lambda: None)
    assert waited and caught.value.exit_code == 1


def test_processes_wait_for_hours(monkeypatch) -> None:
    """NCCL's ten minutes are over before a teacher's fine solution of one chunk is made."""
    import accelerate

    asked = {}

    class State:
        device, process_index, num_processes = torch.device("cpu:0"), 1, 2

        def __init__(self, cpu: bool, timeout: timedelta) -> None:
            asked.update(cpu=cpu, state=timeout)

    monkeypatch.setattr(accelerate, "PartialState", State)
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend, timeout: asked.update(group=timeout))
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes = open_processes("cpu")
    assert asked["cpu"] and min(asked["state"], asked["group"]) > timedelta(hours=24)
    assert (processes.device, processes.rank, processes.count) == (CPU, 1, 2)
