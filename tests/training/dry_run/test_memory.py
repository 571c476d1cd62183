"""The memory of a step: the arithmetic by hand, and what autograd keeps against autograd itself."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from picture_files import encoded, put
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import T5Config
from zoo import WIDTH, ZOO, Row, every_family, student_of, zoo_preset

from piflow_cli.console import Console
from piflow_cli.presets.resolve import available, load, resolve
from piflow_cli.teachers import family_of
from piflow_cli.training.dry_run import fit, live, plan
from piflow_cli.training.dry_run.live import Autocast, Live
from piflow_cli.training.dry_run.memory import (
    Bytes,
    MemorySettings,
    SegmentMemory,
    WeightCounts,
    checkpoint_bytes,
    estimate,
)
from piflow_cli.training.dry_run.outline import cast_of, outline_of, peak_of
from piflow_cli.training.dry_run.rehearsal import graph_of, rehearse
from piflow_cli.training.dry_run.room import Memory
from piflow_cli.training.optimizer import make_optimizer
from piflow_cli.training.settings import imitation_config

WEIGHTS = WeightCounts(linear=1000, other=10, trained=100, matrix=50, block=200)
MOMENTS = SegmentMemory(graph=60, asked=30, policy=5, forward=80, query=90, backward=70)
SETTINGS = MemorySettings("bf16", "bf16", "adamw", checkpointing=True, offload=False, processes=1)


def test_the_parts_are_those_counted_by_hand() -> None:
    found = estimate(WEIGHTS, MOMENTS, 500, SETTINGS)
    assert (found.base, found.adapters, found.gradients, found.optimiser, found.average) == (2020, 400, 400, 800, 400)
    assert (found.activations_with_checkpointing, found.activations_without_checkpointing) == (60, 500)
    assert (found.teacher_query, found.policy) == (30, 5)
    # The teacher's query is the most demanding moment.
    assert found.peak == 2020 + 400 + 400 + 800 + 400 + 90
    assert estimate(WEIGHTS, replace(MOMENTS, forward=91), 500, SETTINGS).peak == found.peak + 1
    assert estimate(WEIGHTS, replace(MOMENTS, backward=92), 500, SETTINGS).peak == found.peak + 2
    plain = estimate(WEIGHTS, MOMENTS, 50, replace(SETTINGS, checkpointing=False))
    assert (plain.activations_with_checkpointing, plain.activations_without_checkpointing) == (50, 60)


def test_processes_that_exchange_gradients_hold_them_twice() -> None:
    alone, together = (estimate(WEIGHTS, MOMENTS, 500, replace(SETTINGS, processes=count)) for count in (1, 2))
    assert together.gradients == 2 * alone.gradients == 800 and together.peak == alone.peak + 400


def test_processes_that_share_weights_hold_a_part_of_what_stands_and_two_blocks() -> None:
    alone = estimate(WEIGHTS, MOMENTS, 500, SETTINGS)
    shared = estimate(WEIGHTS, MOMENTS, 500, replace(SETTINGS, processes=4, sharded=True))
    standing = ("base", "adapters", "gradients", "optimiser", "average")
    assert [4 * getattr(shared, part) for part in standing] == [getattr(alone, part) for part in standing]
    # Of 1000 linear weights a block has 200, and so 20 of 100 trained ones; 10 lie outside of blocks.
    assert shared.peak == (2020 + 400 + 400 + 800 + 400) // 4 + 90 + 2 * (2 * 200 + 2 * 4 * 20) + 2 * 10


@pytest.mark.parametrize(
    ("base", "expected"), [("fp32", 4040), ("bf16", 2020), ("int8", 1020), ("fp8", 1020), ("nf4", 582)]
)
def test_the_base_by_precision(base: str, expected: int) -> None:
    assert estimate(WEIGHTS, MOMENTS, 500, replace(SETTINGS, base=base)).base == expected


def test_an_offloaded_base_leaves_a_few_matrices_and_bitsandbytes_unpacks_one() -> None:
    plain = estimate(WEIGHTS, MOMENTS, 500, SETTINGS)
    assert estimate(WEIGHTS, MOMENTS, 500, replace(SETTINGS, offload=True)).base == 2 * (200 + 10)
    for base, compute, unpacked in (
        ("int8", "bf16", 100),
        ("nf4", "bf16", 100),
        ("nf4", "fp32", 200),
        ("fp8", "bf16", 0),
    ):
        found = estimate(WEIGHTS, MOMENTS, 500, replace(SETTINGS, base=base, compute=compute))
        assert found.peak - found.base == plain.peak - plain.base + unpacked


def test_a_checkpoint_holds_student_average_and_moments() -> None:
    assert checkpoint_bytes(100, "adamw") == 1600
    assert checkpoint_bytes(256, "adamw8bit") == 256 * 8 + 2 * (256 + 4)


def test_bytes_read_as_people_write_them_and_are_numbers_in_json() -> None:
    assert (str(Bytes(23_802_816_640)), str(Bytes(79_900_000))) == ("23.8 GB", "79.9 MB")
    assert json.dumps({"peak": Bytes(12)}) == '{"peak": 12}'


class TwoBlocks(nn.Module):
    """y = W2 relu(W1 x), twice, then a frozen scale."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False)) for _ in range(2)
        )
        self.head = nn.Linear(4, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_a_small_network_holds_what_can_be_counted_on_paper() -> None:
    with torch.device("meta"):
        model, x = TwoBlocks(), torch.empty(128, 4)
        with Live([*model.parameters(), x]) as live, live.peak() as forward:
            output = model(x)
        # After a ReLU 128 x 6 numbers are kept, of each block 128 x 4, and the answer has 128 x 5.
        assert live.now == forward[0] == 4 * 128 * (2 * (6 + 4) + 5)
        with live, live.peak() as backward:
            torch.autograd.backward(output.sum())
        del output
    # Gradients of six small matrices stay, each rounded up to 512 bytes.
    assert live.now == 5 * 512 and backward[0] > forward[0]


def test_autocast_makes_a_copy_of_a_trained_weight_once_and_of_a_frozen_one_each_time() -> None:
    with torch.device("meta"):
        x, weight = torch.empty(2, 256, dtype=torch.bfloat16), nn.Parameter(torch.empty(256, 256))
        for trained, copies in ((True, 1), (False, 0)):
            autocast = Autocast(torch.bfloat16)
            with Live([weight.requires_grad_(trained), x]) as live, torch.no_grad(), autocast, live.peak() as found:
                for _ in range(2):
                    nn.functional.linear(x, weight)
            assert (live.now, found[0]) == (copies * 2 * 256 * 256, 2 * 256 * 256 + 2 * 512)
            autocast.forget()
            assert live.now == 0


@pytest.mark.parametrize("widens", [True, False])
def test_a_root_mean_square_is_widened_where_the_installed_torch_does(monkeypatch, widens: bool) -> None:
    """torch 2.12 and later do, earlier ones do not: an H200 with torch 2.11 has held 0.9 GB less for it in FLUX.1."""
    kernels = {("aten::layer_norm", "AutocastCUDA"): True, ("aten::rms_norm", "AutocastCUDA"): widens}
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *asked: kernels[asked])
    with torch.device("meta"), Autocast(torch.bfloat16):
        x = torch.empty(2, 256, dtype=torch.bfloat16)
        assert nn.functional.rms_norm(x, (256,)).dtype == (torch.float32 if widens else torch.bfloat16)
        assert nn.functional.layer_norm(x, (256,)).dtype == torch.float32


def test_what_autocast_widens_is_what_the_installed_torch_does_on_a_gpu() -> None:
    assert nn.functional.relu not in live.widened() and nn.functional.layer_norm in live.widened()
    for name in ("layer_norm", "rms_norm", "group_norm"):
        asked = torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCUDA")
        assert (getattr(nn.functional, name) in live.widened()) == asked


def kept_by_autograd(model: nn.Module, run) -> int:
    """Bytes that autograd keeps of ``run`` on the CPU, parameters and buffers aside."""
    seen = {value.untyped_storage()._cdata: 0 for value in [*model.parameters(), *model.buffers()]}
    held = []

    def keep(value: Tensor) -> Tensor:
        seen.setdefault(value.untyped_storage()._cdata, value.untyped_storage().nbytes())
        held.append(value)
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        run()
    return sum(seen.values())


@every_family
def test_the_forward_pass_leaves_what_autograd_keeps(row: Row, monkeypatch) -> None:
    monkeypatch.setattr(live, "PAGE", 1)
    family, base = family_of(row.family, row.guidance), row.build()
    monkeypatch.setattr(type(family), "text_length", 16)
    student = student_of(row, base)
    conditioning = {name: torch.ones(value.shape, dtype=torch.float32 if value.is_floating_point() else value.dtype)
                    for name, value in family.longest_conditioning(base).items()}  # fmt: skip
    shape = (1, 4, 3, 32, 32) if row.makes_videos else (1, 4, 32, 32)
    expected = kept_by_autograd(
        base, lambda: family.call(student.model, torch.randn(shape), torch.ones(1), conditioning)
    )
    with torch.device("meta"):
        outline = family.build({**row.config, "_class_name": row.model_name})
        imagined = student_of(row, outline)
        x, told = torch.empty(shape), family.longest_conditioning(outline)
        told = {name: value.float() if value.is_floating_point() else value for name, value in told.items()}
        # Some networks keep tables from their first call on.
        family.call(imagined.model, x, torch.ones(1), told)
        with Live([*outline.parameters(), *outline.buffers()]) as held, Autocast(torch.float32):
            output = family.call(imagined.model, x, torch.ones(1), told)
    assert held.now - output.nbytes == pytest.approx(expected, rel=0.1)


# GB: as published, a GPU of 80 GB holds them.
HELD = {"flux-dev": (35, 72), "qwen-image": (55, 72)}


@pytest.mark.parametrize(
    ("name", "total", "trained"),
    [
        ("flux-dev", 11901.41, 653.70),
        ("qwen-image", 20430.40, 961.98),
        ("flux2-dev", 32223.28, 747.38),
        ("flux2-klein", 3875.54, 192.84),
    ],
)
def test_the_published_sizes_are_planned_without_the_hub(
    cli, much_memory, monkeypatch, name, total: float, trained: float
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **options: pytest.fail("the Hub was asked"))
    outcome = cli("distill", "--teacher", name, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert f"{total:.2f} M parameters" in told["teacher"]["weights"] and told["student"]["trained"].startswith(
        f"{trained:.2f} M"
    )
    assert told["optimisation"]["optimiser"].startswith("adamw, since ")
    memory = told["memory"]
    assert memory["base"] == pytest.approx(2e6 * total, rel=1e-5) and memory["adapters"] == memory[
        "gradients"
    ] == pytest.approx(4e6 * trained, rel=1e-4)
    standing = sum(memory[part] for part in ("base", "adapters", "gradients", "optimiser", "average", "policy"))
    assert standing < memory["peak"] < standing + 12e9
    least, most = HELD.get(name, (0, sys.maxsize))
    assert least < memory["peak"] / 1e9 < most
    assert memory["activations without checkpointing"] > 10 * memory["activations with checkpointing"]
    assert told["disk"]["checkpoint"] == pytest.approx((8 + 8) * 1e6 * trained, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    # As published, a GPU of 80 GB holds the last two.
    [("flux-dev-24gb", 13, 22), ("qwen-image-24gb", 16, 22), ("flux-dev", 35, 72), ("qwen-image", 55, 72)],
)
def test_a_preset_fits_the_gpu_it_is_for(name: str, least: int, most: int) -> None:
    """GB of the estimate; what CUDA, its libraries and fragments take comes on top."""
    found = memory_of_preset(name)
    assert least < found < most and stated(name) == pytest.approx(found, rel=0.03)


@pytest.mark.long
@pytest.mark.parametrize("name", available())
def test_the_memory_in_a_preset_is_what_its_plan_computes(name: str) -> None:
    assert stated(name) == pytest.approx(memory_of_preset(name), rel=0.03)


def stated(name: str) -> float:
    """GB that a preset says itself."""
    number, unit = load(name).teacher.memory.split()
    assert unit == "GB"
    return float(number)


def memory_of_preset(name: str) -> float:
    """GB of a step as the preset asks for it, on one device of which it has every package."""
    preset = load(name)
    outline = outline_of(preset, family_of(preset.teacher.family, preset.teacher.guidance))
    return peak_of(outline) / 1e9


def test_a_plan_needs_no_weights_and_says_when_it_lacks_a_size(cli, tmp_path) -> None:
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    for weights in (tmp_path / "base" / "transformer").glob("*.safetensors"):
        weights.unlink()
    told = json.loads(cli("distill", "--teacher", str(path), "--dry-run", "--json").out)
    assert told["memory"] == {"peak": "unknown: no size is given"}
    told = json.loads(cli("distill", "--teacher", str(path), "--set", "data.resolution=64", "--dry-run", "--json").out)
    assert told["memory"]["peak"] > told["memory"]["base"] > 0
    assert told["disk"]["cache, each text, at most"] == 2 * (512 * WIDTH + 24)


@pytest.mark.parametrize(("source", "texts", "pictures"), [("prompts", 4, 0), ("pictures", 3, 2), ("captions", 3, 0)])
def test_a_plan_says_what_the_cache_takes_in_all(cli, tmp_path, source, texts, pictures) -> None:
    """Each text once, the empty one with them; each picture once, its mean and standard
    deviation, unless only its caption is wanted."""
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    (tmp_path / "prompts.txt").write_text("a\nb\nc\na\n")
    put(
        tmp_path / "pictures",
        {name: encoded() if name.endswith("png") else name for name in ("a.png", "a.txt", "b.png", "b.txt")},
    )
    given = (
        ["--prompts", str(tmp_path / "prompts.txt")] if source == "prompts" else ["--data", str(tmp_path / "pictures")]
    )
    given += ["--data-free"] if source == "captions" else []
    cache = ["--cache", str(tmp_path / "cache"), "--set", "data.resolution=64"]
    told = json.loads(cli("distill", "--teacher", str(path), *given, *cache, "--dry-run", "--json").out)
    assert told["disk"]["cache, in all, at most"] == texts * 2 * (512 * WIDTH + 24) + pictures * 2 * 4 * (4 * 8 * 8)


@pytest.mark.parametrize("offload", [False, True])
def test_a_plan_says_what_text_encoders_take(cli, tmp_path, monkeypatch, offload) -> None:
    monkeypatch.setattr(plan, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(fit, "memory_here", lambda device: Memory("a GPU", Bytes(80 * 10**9), cuda=True))
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    config = T5Config(
        vocab_size=64, d_model=6, d_kv=3, d_ff=8, num_layers=1, num_heads=2, architectures=["T5EncoderModel"]
    )
    config.save_pretrained(tmp_path / "base" / "text_encoder_2")
    options = ["--set", "data.resolution=64", *(["--offload-text-encoder"] if offload else [])]
    told = json.loads(cli("distill", "--teacher", str(path), *options, "--dry-run", "--json").out)
    # A table of 64 x 6; attention 4 x 36 and 64 biases; feed-forward 2 x 48; norms 18. The two largest: the table, and
    # what holds biases and 36.
    assert told["memory"]["text encoders, before training"] == 2 * (384 + 64 if offload else 384 + 144 + 64 + 96 + 18)


def imagined_flux(tmp_path: Path, *settings: str):
    """Who takes part in a step of a small FLUX, on the meta device."""
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    options = ["data.resolution=64", "adapter.base_precision=bf16", "optimisation.precision=bf16", *settings]
    preset = resolve(str(path), None, options, {"data.prompts": "-"})
    outline = outline_of(preset, family_of("flux"))
    return outline, cast_of(outline, 1)


def test_fp8_holds_the_cast_weights_that_the_backward_pass_needs(tmp_path, monkeypatch) -> None:
    """Those of a block with checkpointing, without it those of all layers that gradients pass; bf16 holds none."""
    monkeypatch.setattr(live, "PAGE", 1)
    (outline, plain), (_, packed) = (
        imagined_flux(tmp_path, f"adapter.base_precision={base}") for base in ("bf16", "fp8")
    )
    kept = [graph_of(cast, checkpointing=False) for cast in (plain, packed)]
    inside = graph_of(packed, checkpointing=True) - graph_of(plain, checkpointing=True)
    assert 2 * outline.weights.matrix < kept[1] - kept[0] <= 2 * outline.weights.linear
    assert 0 <= inside < kept[1] - kept[0]
    back = [rehearse(cast, checkpointing=True).backward for cast in (plain, packed)]
    assert inside < back[1] - back[0] <= 2 * outline.weights.block + inside


def test_checkpointing_leaves_less_and_two_samples_leave_twice_as_much(tmp_path) -> None:
    _, cast = imagined_flux(tmp_path)
    assert graph_of(cast, checkpointing=True) < graph_of(cast, checkpointing=False) / 2
    moments = rehearse(cast, checkpointing=True)
    assert moments.graph == graph_of(cast, checkpointing=True)
    assert moments.forward <= moments.query + moments.asked and moments.query > moments.graph + moments.asked
    assert all(value.grad is None for value in cast.student.model.parameters())
    both = rehearse(replace(cast, shape=(2, *cast.shape[1:])), checkpointing=True)
    # Copies of weights are there once.
    assert 1.5 * moments.graph < both.graph < 2 * moments.graph
    alone = rehearse(replace(cast, config=replace(cast.config, states_per_query=1)), checkpointing=True)
    assert alone.asked < moments.asked


@pytest.mark.parametrize(("asked", "together"), [(0, 4), (1, 1), (3, 3), (9, 4)])
def test_states_that_share_a_query_are_as_the_preset_says(asked: int, together: int) -> None:
    preset = resolve("flux-dev", None, [], {"imitation.states_per_query": asked})
    assert imitation_config(preset).states_per_query == asked


@pytest.mark.parametrize(
    ("installed", "device", "reason"),
    [
        (False, "cuda", 'since bitsandbytes is not installed: pip install "piflow[lowvram]"'),
        (True, "cpu", "since 8-bit AdamW needs a CUDA device"),
        (True, "cuda", None),
    ],
)
def test_8_bit_adamw_where_it_can_be_had_and_plain_adamw_with_the_reason(
    monkeypatch, capsys, installed, device, reason
) -> None:
    asked = []

    class AdamW8bit:
        def __init__(self, parameters, **options: object) -> None:
            asked.append(options)

    for name in ("bitsandbytes", "bitsandbytes.optim"):
        # None in this table is what an import that fails leaves there.
        there = SimpleNamespace(AdamW8bit=AdamW8bit, __spec__=name)
        monkeypatch.setitem(sys.modules, name, there if installed else None)
    settings = replace(resolve("flux-dev", None, [], {}).optimisation, optimizer="adamw8bit")
    found = make_optimizer(
        [("means.weight", nn.Parameter(torch.zeros(2)))], (), settings, torch.device(device), Console()
    )
    said = capsys.readouterr().err
    if reason is None:
        assert isinstance(found, AdamW8bit) and not said
        assert asked == [{"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.0}]
    else:
        assert isinstance(found, torch.optim.AdamW) and f"plain AdamW, {reason}" in said
