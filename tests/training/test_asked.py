"""Network evaluations of a step: what the teacher is asked, and what the plan and the metrics say of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import seeded
from run_rows import rows_of
from tiny_students import tiny_dit

from piflow_cli.console import Console
from piflow_cli.core.constants import ImitationConfig
from piflow_cli.core.draws import draw_segment, draw_segments, draw_start
from piflow_cli.core.guidance import Guidance
from piflow_cli.core.imitation import query_sigmas
from piflow_cli.core.timegrid import TimeGrid
from piflow_cli.presets.resolve import resolve
from piflow_cli.teachers.base import guidance_of
from piflow_cli.training.asked import plan_queries
from piflow_cli.training.loop import Session, train_step
from piflow_cli.training.opening import open_session
from piflow_cli.training.rows import take_pending
from piflow_cli.training.settings import guided_share, imitation_config

BATCH = 256
TINY = [
    "teacher.config=null", "teacher.vae=null", "data.labels=uniform", "policy.components=3", "policy.logstd_width=8",
    "policy.substeps=16", f"optimisation.batch_size={BATCH}", "optimisation.device_batch_size=128",
    "optimisation.precision=fp32", "optimisation.optimizer=adamw", "optimisation.gradient_checkpointing=false",
]  # fmt: skip


def session_of(preset: str, folder: Path, *settings: str) -> Session:
    """A session of a shipped preset of ImageNet on a tiny DiT, in two rounds."""
    tiny_dit(in_channels=1).save_pretrained(folder / "teacher")
    named = [f"teacher.base={folder / 'teacher'}", *TINY, *settings]
    return open_session(resolve(preset, None, named, {}), folder, "cpu", Console(quiet=True))


def asked_in(session: Session, steps: int) -> list[int]:
    """Rows of each batch that the teacher's network got in some steps."""
    rows: list[int] = []
    hook = session.teacher.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    for _ in range(steps):
        train_step(session)
    hook.remove()
    return rows


@pytest.mark.parametrize(("preset", "segments", "left_out"), [
    ("imagenet-fm", 1, 0.4), ("imagenet-repa", 1, 0.3), ("imagenet-repa-2nfe", 2, 0.3),
])  # fmt: skip
def test_a_step_asks_for_less_by_the_share_that_the_interval_leaves_out(preset, segments, left_out, tmp_path) -> None:
    session = session_of(preset, tmp_path)
    states = 2 * BATCH * segments
    rows = asked_in(session, 4)
    halves, others = sum(rows[::2]), sum(rows[1::2])
    assert rows[::2] == [BATCH] * 2 * segments * 4 and halves == 4 * states
    # All raw times are equally likely, and without a shift a noise level is its raw time.
    assert 1 - others / halves == pytest.approx(left_out, abs=0.03)
    everywhere = session_of(preset, tmp_path, "teacher.guidance_interval=[0.0, 1.0]")
    assert sum(asked_in(everywhere, 1)) == 2 * states


def test_metrics_count_what_was_asked(tmp_path) -> None:
    session = session_of("imagenet-repa-2nfe", tmp_path)
    asked = [sum(asked_in(session, 1)) for _ in range(3)]
    student = BATCH * 2 * 3
    expected = [student * count + sum(asked[:count]) for count in (1, 2, 3)]
    first, second, third = (row["evaluations"] for row in take_pending(session))
    assert [first, second, third] == expected
    later = sum(asked_in(session, 1))
    assert [row["evaluations"] for row in take_pending(session)] == [third + student + later]


@pytest.mark.parametrize("mixing", [0, 10])
@pytest.mark.parametrize("per_query", [0, 1])
def test_the_host_knows_what_will_be_asked(mixing: int, per_query: int, tmp_path) -> None:
    """The rows that are planned are those inside of the interval of the very noise levels that the network gets."""
    session = session_of(
        "imagenet-repa-2nfe", tmp_path, f"imitation.mixing_iterations={mixing}",
        f"imitation.states_per_query={per_query}", "policy.shift=2.0", "policy.final_step_scale=0.5",
        "imitation.window=2",
    )  # fmt: skip
    seen: list[torch.Tensor] = []
    hook = session.teacher.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    session.iteration = 5
    train_step(session)
    hook.remove()
    sigma = torch.cat(seen)
    conditional = BATCH * 2 * 2
    assert len(sigma) == session.asked
    # Each noise level inside of the interval is met twice, all others once.
    inside = session.guidance.acts(sigma.double())
    assert (~inside).sum() + inside.sum() / 2 == conditional and 0 < inside.sum() < len(sigma)
    # No batch is larger than the states of a query, as many as may share one.
    assert max(map(len, seen)) <= 128 * (2 if per_query == 0 else per_query)


def test_processes_that_share_the_weights_out_call_alike() -> None:
    config = ImitationConfig(TimeGrid(1))
    draws, outside = draw_segments(4, config, seeded()), Guidance(2.0, (0.0, 1e-6))
    apart, shared = (plan_queries(config, outside, 0.0, draws, sharded=sharded) for sharded in (False, True))
    assert [rows.tolist() for rows in apart.rows] == [[]] and apart.evaluations == 2 * 4
    assert [rows.tolist() for rows in shared.rows] == [[0]] and shared.evaluations == 2 * 4 + 1
    none = plan_queries(config, Guidance(), 0.0, draws, sharded=True)
    assert [rows.tolist() for rows in none.rows] == [[]]


@pytest.mark.parametrize("data_free", [False, True])
@pytest.mark.parametrize("interval", [(0.0, 0.6), (0.3, 1.0), (0.25, 0.7), (0.0, 1.0)])
def test_the_expected_share_is_the_mean_of_what_is_drawn(interval: Sequence[float], data_free: bool) -> None:
    preset = resolve("digits", None, [
        "policy.nfe=3", "policy.final_step_scale=0.5", "policy.shift=3.2", "teacher.guidance=3.0",
        f"teacher.guidance_interval={list(interval)}", f"imitation.data_free={str(data_free).lower()}",
        "imitation.states=3", "imitation.window=6",
    ], {})  # fmt: skip
    config, count, draw = imitation_config(preset), 20_000, seeded()
    if data_free:
        raws = [
            (torch.full((count,), upper, dtype=torch.float64), upper - lower)
            for upper, lower in pairwise(config.grid.edges)
        ]
    else:
        start = draw_start((count, 1), config.grid, draw)
        raws = [(start.raw, start.length)]
    sigmas = [
        query_sigmas(raw, length * torch.ones_like(raw), config, 0.0, draw_segment(count, config, draw))
        for raw, length in raws
    ]
    acts = guidance_of(preset.teacher).acts(torch.cat([sigma for [sigma] in sigmas]))
    assert guided_share(preset) == pytest.approx(acts.double().mean().item(), abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes_under_guidance_in_an_interval_ask_what_one_asks(cli, tmp_path, way) -> None:
    """With two samples a process in a query, one of them often has none inside, and the other has some."""
    tiny_dit(in_channels=1).save_pretrained(tmp_path / "teacher")
    named = [f"teacher.base={tmp_path / 'teacher'}", *TINY[:-4], *TINY[-3:], "output.preview_every=0"]
    few = ["optimisation.batch_size=4", "optimisation.device_batch_size=2", "optimisation.iterations=6"]
    settings = [word for text in [*named, *few, "teacher.guidance_interval=[0.0, 0.4]"] for word in ("--set", text)]
    command = ["distill", "--teacher", "imagenet-fm", *settings, "--device", "cpu", "--quiet", "--output"]
    assert cli(*command, str(tmp_path / "one")).code == 0
    assert cli(*command, str(tmp_path / "two"), "--num-processes", "2", "--parallel", way).code == 0
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)
    apart, together = ([row["evaluations"] for row in rows] for rows in (one, two))
    # A step of the student counts as three for each sample, which asks for two states; guidance adds at most as many.
    assert 6 * 4 * 5 < apart[-1] < 6 * 4 * 7
    if way == "ddp":
        assert together == apart
    else:
        # A process that has none to guide asks for one all the same, in each of its queries.
        added = [count - before for count, before in zip(together, apart)]
        assert 0 < added[-1] <= 6 * 2 * 2 and added == sorted(added)
