"""Weights that processes share out (FSDP2): the same losses, the same files, and either way goes on from the other."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from process_runs import adapters, losses, same, two_networks, whole

from piflow_cli.errors import UsageError
from piflow_cli.presets.resolve import resolve
from piflow_cli.presets.schema import Preset
from piflow_cli.training.dry_run import sharing
from piflow_cli.training.dry_run.outline import peak_of
from piflow_cli.training.dry_run.sharing import choose_parallel

CUDA = torch.device("cuda", 0)


def by(processes: int, way: str) -> list[str]:
    return ["--num-processes", str(processes), "--parallel", way]


@pytest.mark.parametrize("student", [adapters, two_networks])
def test_a_run_of_one_process_goes_on_with_shared_weights(cli, text_encoders, tiny_teacher, tmp_path, student) -> None:
    arguments = ["distill", *student(tiny_teacher, tmp_path), "--quiet", "--device", "cpu"]
    assert cli(*arguments, "--output", str(tmp_path / "one")).code == 0
    two = [*arguments, "--output", str(tmp_path / "two")]
    assert cli(*two, "--iterations", "2").code == 0
    assert cli(*two, *by(2, "fsdp2"), "--iterations", "4").code == 0
    same(tmp_path / "two", tmp_path / "one", 1e-5)
    assert (tmp_path / "two" / "samples.png").exists() == (tmp_path / "one" / "samples.png").exists()


@pytest.mark.long
@pytest.mark.parametrize("student", [whole, adapters])
def test_twenty_steps_by_one_two_and_four_processes_are_those_of_one(
    cli, text_encoders, tiny_teacher, tmp_path, student
) -> None:
    told = ["--batch-size", "4", "--set", "optimisation.device_batch_size=1", "--set", "output.checkpoint_every=4"]
    arguments = ["distill", *student(tiny_teacher, tmp_path), *told, "--quiet", "--device", "cpu"]
    assert cli(*arguments, "--iterations", "20", "--output", str(tmp_path / "one")).code == 0
    many = [*arguments, "--output", str(tmp_path / "many")]
    for until, shared in ((5, by(2, "fsdp2")), (9, []), (13, by(4, "fsdp2")), (17, by(2, "ddp")), (20, by(2, "fsdp2"))):
        assert cli(*many, *shared, "--iterations", str(until)).code == 0
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("student", [whole, adapters])
def test_two_processes_fork_a_run_and_leave_a_damaged_checkpoint_aside(
    cli, text_encoders, tiny_teacher, tmp_path, student
) -> None:
    """As one process does."""
    told = ["--quiet", "--device", "cpu", "--set", "output.checkpoint_every=2", "--set", "output.preview_every=0"]
    arguments = ["distill", *student(tiny_teacher, tmp_path), *told]
    assert cli(*arguments, "--iterations", "2", "--output", str(tmp_path / "source")).code == 0
    for name, shared in (("one", []), ("two", by(2, "fsdp2"))):
        new = [*arguments, "--fork", str(tmp_path / "source"), "--output", str(tmp_path / name), "--iterations", "4"]
        assert cli(*new, *shared).code == 0
        newest = tmp_path / name / "checkpoints" / "0000004"
        (newest / "training.safetensors").write_bytes(b"")
        assert cli(*new, *shared).code == 0
        assert newest.with_name("0000004.damaged").is_dir()
    same(tmp_path / "two", tmp_path / "one", 1e-5)


def flux(**changes: object) -> Preset:
    source = {"data.prompts": "-"}
    return resolve("flux-dev", None, [f"{key}={value}" for key, value in changes.items()], source)


def test_weights_are_shared_where_they_would_not_fit(monkeypatch) -> None:
    """With the gradients' buckets of DDP the plan of FLUX.1 takes 40.4 GB."""
    found = []

    def once(*given):
        """It takes seconds, and the GPU has no part in it."""
        if not found:
            found.append(peak_of(*given))
        return found[0]

    monkeypatch.setattr(sharing, "peak_of", once)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(__spec__="there"))
    for gigabytes, way in ((24, "fsdp2"), (40, "fsdp2"), (48, "ddp"), (80, "ddp")):
        there = SimpleNamespace(total_memory=gigabytes * 10**9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, there=there: there)
        chosen = choose_parallel("auto", flux(), 8, CUDA)
        assert chosen.way == way and f"40.4 GB on each GPU, which has {gigabytes}.0 GB" in chosen.reason


def test_what_cannot_be_shared_is_refused_or_left_whole() -> None:
    preset = flux(**{"adapter.base_precision": "nf4"})
    assert choose_parallel("auto", preset, 8, CUDA).way == "ddp"
    with pytest.raises(UsageError, match="a base in nf4 cannot be shared out, one in bf16 can"):
        choose_parallel("fsdp2", preset, 8, CUDA)
    with pytest.raises(UsageError, match="an offloaded base lies in host memory"):
        choose_parallel("fsdp2", flux(**{"adapter.offload_base": True}), 8, CUDA)
    with pytest.raises(UsageError, match="one process has nobody"):
        choose_parallel("fsdp2", flux(), 1, CUDA)
    assert choose_parallel("auto", flux(), 8, torch.device("cpu")).way == "ddp"


def test_two_networks_learn_from_noised_videos_only_where_each_process_holds_both() -> None:
    """A process whose videos are all noisier than the boundary would wait for ever for the other network's layers."""
    noised = resolve("wan22-a14b", None, [], {"data.captioned": "videos"})
    with pytest.raises(UsageError, match="from noised data each process would ask other ones") as caught:
        choose_parallel("fsdp2", noised, 8, CUDA)
    assert caught.value.hint == "type --parallel ddp"
    assert choose_parallel("auto", noised, 8, CUDA).way == choose_parallel("ddp", noised, 8, CUDA).way == "ddp"
    for name, source, data_free in (
        ("wan22-a14b", "prompts", "null"),
        ("wan22-a14b", "captioned", "true"),
        ("wan21-1.3b", "captioned", "null"),
    ):
        preset = resolve(name, None, [f"imitation.data_free={data_free}"], {f"data.{source}": "-"})
        assert choose_parallel("fsdp2", preset, 8, CUDA).way == "fsdp2"
