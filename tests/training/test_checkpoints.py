"""Checkpoints of optimisers: whatever they keep comes back as it was, so that the next step is the same."""

from __future__ import annotations

import copy
import errno
import json
import logging
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import seeded
from torch import Tensor, nn

from piflow_cli.errors import RunError
from piflow_cli.students.run_checkpoints import check_checkpoint, checkpoints, set_aside_damaged
from piflow_cli.system import files
from piflow_cli.training.checkpoints import TrainingState, load_checkpoint, save_checkpoint

# Eight bits are for large tensors; small ones stay in 32.
SHAPES = ((128, 64), (8,))
TABLE = torch.linspace(-1, 1, 256)


class LikeBitsandbytes(torch.optim.Optimizer):
    """Its state has the form of that of AdamW8bit: steps counted by a number,
    moments in a mapping within, one table for all."""

    WITHIN = "__bnb_optimizer_quant_state__"

    def __init__(self, parameters, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for value in self.param_groups[0]["params"]:
            state = self.state[value]
            if not state:
                state.update(step=0, state1=torch.zeros(value.shape, dtype=torch.uint8), qmap1=TABLE)
            assert type(state["step"]) is int and state["state1"].dtype == torch.uint8
            state["step"] += 1
            state["state1"].add_(1)
            value -= self.param_groups[0]["lr"] * (state["step"] + state["qmap1"][state["state1"].long()]) * value.grad

    def state_dict(self) -> dict:
        found = super().state_dict()
        wrapped = {
            index: {"step": entries["step"], self.WITHIN: {name: entries[name] for name in ("state1", "qmap1")}}
            for index, entries in found["state"].items()
        }
        return {**found, "state": wrapped}

    def load_state_dict(self, state: dict) -> None:
        for index, entries in state["state"].items():
            self.state[self.param_groups[0]["params"][index]] = dict(entries)


def eight_bits(parameters, lr: float) -> torch.optim.Optimizer:
    return pytest.importorskip("bitsandbytes").optim.AdamW8bit(parameters, lr=lr)


def model() -> nn.ParameterList:
    return nn.ParameterList([torch.randn(shape, generator=seeded(number)) for number, shape in enumerate(SHAPES)])


def gradients(step: int) -> list[Tensor]:
    return [torch.randn(shape, generator=seeded(10 * step + number)) for number, shape in enumerate(SHAPES)]


def advance(weights: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    for value, gradient in zip(weights.parameters(), gradients(step), strict=True):
        value.grad = gradient
    optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, LikeBitsandbytes, eight_bits])
def test_an_optimiser_goes_on_bit_for_bit(kind: Callable[..., torch.optim.Optimizer], tmp_path: Path) -> None:
    first, second = model(), model()
    whole, resumed = kind(first.parameters(), lr=1e-2), kind(second.parameters(), lr=1e-2)

    for step in range(3):
        advance(first, whole, step)
    path = save_checkpoint(tmp_path, TrainingState(first, copy.deepcopy(first), whole, 3), keep=1)
    load_checkpoint(path, TrainingState(second, copy.deepcopy(second), resumed))
    for step in range(3, 6):
        advance(first, whole, step)
        advance(second, resumed, step)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


KINDS = {"plain AdamW": torch.optim.AdamW, "8-bit AdamW": LikeBitsandbytes}


@pytest.mark.parametrize(("wrote", "reads"), [tuple(KINDS), tuple(reversed(KINDS))])
def test_moments_of_another_optimiser_begin_anew_and_that_is_said(
    wrote: str, reads: str, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(logging.getLogger("piflow"), "propagate", True)
    saved, resumed, fresh = model(), model(), model()

    optimizer = KINDS[wrote](saved.parameters(), lr=1e-2)
    advance(saved, optimizer, 0)
    path = save_checkpoint(tmp_path, TrainingState(saved, copy.deepcopy(saved), optimizer, 1), keep=1)
    state = TrainingState(resumed, copy.deepcopy(resumed), KINDS[reads](resumed.parameters(), lr=1e-2))
    load_checkpoint(path, state)
    said = f"the moments in {path} are those of {wrote}, and the run goes on with {reads}: they begin anew"
    assert caplog.messages == [said]
    assert state.iteration == 1 and all(map(torch.equal, state.average.parameters(), saved.parameters()))
    fresh.load_state_dict(saved.state_dict())
    first = KINDS[reads](fresh.parameters(), lr=1e-2)
    for step in (1, 2):
        advance(resumed, state.optimizer, step)
        advance(fresh, first, step)
    assert all(map(torch.equal, resumed.parameters(), fresh.parameters()))


def test_a_run_goes_on_where_the_machine_has_another_optimiser(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    def eight_bits_here(named, slow, settings, *given) -> LikeBitsandbytes:
        return LikeBitsandbytes([{"params": [value for _, value in named], "share": 1.0}], settings.learning_rate)

    told = ["distill", "--teacher", str(tiny_teacher), "--device", "cpu", "--set", "output.preview_every=0"]
    told += ["--output", str(tmp_path), "--iterations"]
    with monkeypatch.context() as patch:
        patch.setattr("piflow_cli.training.opening.make_optimizer", eight_bits_here)
        assert cli(*told, "1").code == 0
    outcome = cli(*told, "2")
    assert outcome.code == 0 and outcome.err.count("goes on with plain AdamW: they begin anew\n") == 1, outcome.err
    assert "begin anew" not in cli(*told, "3").err


def state_at(iteration: int) -> TrainingState:
    weights = model()
    optimizer = torch.optim.AdamW(weights.parameters())
    for value, gradient in zip(weights.parameters(), gradients(1), strict=True):
        value.grad = gradient
    optimizer.step()
    return TrainingState(weights, copy.deepcopy(weights), optimizer, iteration)


def test_only_names_that_are_exactly_ours_are_checkpoints(tmp_path) -> None:
    ours = ["0000002", "0000010", "12345678"]
    others = [
        "0000002-good",
        "0000004.damaged",
        "000004",
        "00000004",
        "0000003 ",
        "٠٠٠٠٠٠٥",
        "old",
        ".0000006.0123.tmp",
    ]
    for name in (*ours, *others):
        (tmp_path / name).mkdir()
    (tmp_path / "0000007").touch()
    assert [path.name for path in checkpoints(tmp_path)] == ours
    save_checkpoint(tmp_path, state_at(12345679), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["12345679", "0000007", *others])


def test_a_checkpoint_that_cannot_be_removed_is_said_and_ends_nothing(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(logging.getLogger("piflow"), "propagate", True)
    for iteration in (1, 2):
        save_checkpoint(tmp_path, state_at(iteration), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["0000002"]

    def refuses(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("piflow_cli.training.checkpoints.remove_folder", refuses)
    save_checkpoint(tmp_path, state_at(3), keep=1)
    assert f"the old checkpoint {tmp_path / '0000002'} cannot be removed: Permission denied" in caplog.text
    assert load_checkpoint(tmp_path / "0000003", state_at(0)) is None


def test_the_older_checkpoint_goes_after_the_newer_is_on_the_disk(tmp_path, monkeypatch) -> None:
    save_checkpoint(tmp_path, state_at(1), keep=1)
    order = []
    sync, rename = files.sync_folder, os.rename
    monkeypatch.setattr(files, "sync_folder", lambda path: order.append(f"sync {path.name}") or sync(path))
    monkeypatch.setattr(os, "rename", lambda one, other: order.append(f"rename {one.name[:8]}") or rename(one, other))
    save_checkpoint(tmp_path, state_at(2), keep=1)
    place = f"sync {tmp_path.name}"
    assert order[-4:] == ["rename .0000002", place, "rename 0000001", place]


@pytest.mark.parametrize(
    ("keep", "every", "left"),
    [(2, 0, [8, 9]), (2, 3, [3, 6, 8, 9]), (1, 4, [4, 8, 9]), (3, 10, [7, 8, 9]), (1, 1, list(range(1, 10)))],
)
def test_the_newest_stay_and_every_so_many(tmp_path, keep, every, left) -> None:
    for iteration in range(1, 10):
        save_checkpoint(tmp_path, state_at(iteration), keep, every)
    assert [int(path.name) for path in checkpoints(tmp_path)] == left


@pytest.mark.parametrize("name", ["state.json", "training.safetensors"])
def test_one_flipped_bit_is_noticed_wherever_it_is(tmp_path, name) -> None:
    path = save_checkpoint(tmp_path, state_at(7), keep=1, metrics="0" * 64)
    whole = (path / name).read_bytes()
    draw = random.Random(0)
    places = range(len(whole)) if name == "state.json" else sorted(draw.sample(range(len(whole)), 60))
    for place in places:
        flipped = whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]
        (path / name).write_bytes(flipped)
        with pytest.raises(RunError, match=f"the checkpoint {path} is damaged: ") as caught:
            check_checkpoint(path)
        assert "\n" not in caught.value.message
    (path / name).write_bytes(whole)
    check_checkpoint(path)
    assert load_checkpoint(path, state_at(0)) == "0" * 64


def test_checkpoints_of_piflow_0_1_are_read(tmp_path) -> None:
    before = state_at(7)
    path = save_checkpoint(tmp_path, before, keep=1)
    record = {"iteration": 7, "crc32": zlib.crc32((path / "training.safetensors").read_bytes())}
    (path / "state.json").write_text(json.dumps(record) + "\n")
    after = state_at(0)
    with torch.no_grad():
        after.student[0].zero_()
    check_checkpoint(path)
    assert load_checkpoint(path, after) is None and after.iteration == 7
    assert all(torch.equal(one, other) for one, other in zip(before.student, after.student, strict=True))
    for changes, what in (
        ({"crc32": record["crc32"] ^ 1}, "checksum of training.safetensors"),
        ({"iteration": 8}, "iteration 8"),
    ):
        (path / "state.json").write_text(json.dumps({**record, **changes}) + "\n")
        with pytest.raises(RunError, match=what):
            check_checkpoint(path)


def test_a_disk_that_fails_is_no_damage(tmp_path, monkeypatch) -> None:
    path = save_checkpoint(tmp_path, state_at(7), keep=1)

    def fails(*given):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("piflow_cli.students.run_checkpoints.files_digest", fails)
    with pytest.raises(OSError, match="Input/output error"):
        check_checkpoint(path)


def test_damaged_ones_are_set_aside_until_a_whole_one_is_found(tmp_path) -> None:
    for iteration in (1, 2, 3):
        save_checkpoint(tmp_path, state_at(iteration), keep=3)
    (tmp_path / "0000003" / "state.json").unlink()
    os.truncate(tmp_path / "0000002" / "training.safetensors", 100)
    (tmp_path / "0000002.damaged").mkdir()  # of an earlier time
    newest, older = set_aside_damaged(tmp_path)
    assert "0000003 is damaged: state.json is missing; it is now" in newest
    assert f"{tmp_path / '0000002.damaged.2'}, and the run goes on from {tmp_path / '0000001'}" in older
    assert checkpoints(tmp_path) == [tmp_path / "0000001"]
    assert (tmp_path / "0000003.damaged" / "training.safetensors").is_file()
    assert list(set_aside_damaged(tmp_path)) == []


def test_where_none_is_whole_nothing_is_renamed(tmp_path) -> None:
    for iteration in (1, 2):
        path = save_checkpoint(tmp_path, state_at(iteration), keep=2)
        (path / "state.json").write_text("{}")
    with pytest.raises(RunError, match="no checkpoint in .* is whole: 0000002 .*, 0000001 ") as caught:
        list(set_aside_damaged(tmp_path))
    assert caught.value.hint is not None and "--no-resume" in caught.value.hint
    assert [path.name for path in checkpoints(tmp_path)] == ["0000001", "0000002"]


def test_a_checkpoint_of_another_student_is_refused(tmp_path) -> None:
    path = save_checkpoint(tmp_path, state_at(1), keep=1)
    other = state_at(0)
    other.student.append(torch.zeros(3))
    with pytest.raises(RunError, match="is not of this student"):
        load_checkpoint(path, other)
