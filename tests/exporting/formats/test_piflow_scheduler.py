"""The format `piflow-scheduler`, and DX policies against the class of diffusers that is to follow them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from exports import NAMES, export, student
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from zoo import ZOO

from piflow_cli.core.timegrid import TimeGrid
from piflow_cli.errors import UsageError
from piflow_cli.exporting.formats import piflow_scheduler
from piflow_cli.exporting.formats.piflow_scheduler import PiflowSchedulerFormat
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.presets.families import boundary_of
from piflow_cli.students.scheduler import PolicyScheduler
from piflow_cli.teachers import family_of

if not hasattr(diffusers, "PiflowScheduler"):
    pytest.skip("diffusers below 0.42 has no PiflowScheduler", allow_module_level=True)
PiflowScheduler = diffusers.PiflowScheduler


@given(
    nfe=st.integers(1, 6),
    final=st.sampled_from([0.3, 0.5, 1.0]),
    shift=st.floats(0.5, 5),
    points=st.integers(2, 10),
    substeps=st.sampled_from([32, 128]),
    seed=st.integers(0, 50),
)
def test_every_segment_ends_where_diffusers_has_it(nfe, final, shift, points, substeps, seed) -> None:
    """The same outputs from the same noise, the shorter last segment too."""
    segment = TimeGrid(nfe, final, shift).segment
    ours = PolicyScheduler("dx", points, segment=segment, shift=shift, final_step_scale=final, substeps=substeps)
    theirs = PiflowScheduler(shift=shift, n_grid=points, final_step_size_scale=final, num_policy_substeps=substeps)
    ours.set_timesteps(nfe)
    theirs.set_timesteps(nfe)
    x = y = torch.randn(2, 3, 2, 4, generator=seeded(seed))
    for step, (own, other) in enumerate(zip(ours.timesteps, theirs.timesteps, strict=True)):
        output = torch.randn(2, points * 3, 2, 4, generator=seeded(seed + step + 1))
        x = ours.step(output, own, x).prev_sample
        y = theirs.step(output.movedim(1, -1), other, y.movedim(1, -1)).prev_sample.movedim(-1, 1)
        # Theirs counts substeps of float32 intervals and clamps sigma at 1e-6 of raw time.
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if family_of(name).parameterisation.flow and boundary_of(name) is None]
)
def test_an_export_is_of_a_stock_class_where_one_fits(name, tmp_path) -> None:
    which = student(name, policy="dx")
    folder = export(which, "piflow-scheduler", tmp_path / "out")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    settings = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert settings["_class_name"] == "PiflowScheduler"
    assert (settings["n_grid"], settings["shift"], settings["final_step_size_scale"]) == (3, 3.2, 0.5)
    assert settings["num_policy_substeps"] == which.facts.substeps
    # Where the model itself makes pictures of tokens, its class has no say in how many channels they have, but for
    # Sana's and Wan's. The configs of FLUX.3, Krea 2 and LongCat-Image have none of their output.
    without = name in ("dit", "krea2", "longcat-image", "flux3-klein")
    if not without and (name in ("sana", "wan", "wan-ti2v") or which.family.token_positions is not None):
        base = ZOO[name].build()
        assert config["_class_name"] == ZOO[name].model_name and not list(folder.glob("**/*.py"))
        channels = base.config.in_visual_dim if name == "kandinsky6" else base.out_channels
        assert config[which.family.output_field] == 3 * channels
        site = ZOO[name].head_site.projection
        weight = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")[f"{site}.weight"]
        projection = base.get_submodule(site)
        assert weight.shape == (3 * projection.out_features, projection.in_features)
    else:
        assert config["_class_name"].startswith("Policy") and len(list(folder.glob("**/*.py"))) == 1


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_an_export_in_16_bits(dtype, tmp_path) -> None:
    for name in ("flux", "z-image"):
        export(student(name, policy="dx"), "piflow-scheduler", tmp_path / name, dtype=dtype)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"policy": "gm"}, {}, "this student predicts a Gaussian mixture"),
        ({"policy": "dx-poly"}, {}, "this student predicts a polynomial in time"),
        ({"components": 1}, {}, "wants two points or more, and this student predicts 1"),
        ({"segment": 0.5}, {}, "this student's spans 0.5 where 2 steps are 0.666667 long"),
        ({"nfe": 4}, {}, "this student's spans 0.666667 where 4 steps are 0.285714 long"),
        ({}, {"with_base": False}, "--no-base and --quantise are not for the format piflow-scheduler"),
        ({}, {"quantise": "fp8"}, "--no-base and --quantise are not for the format piflow-scheduler"),
        ({}, {"rank": 1}, "--rank is about adapters"),
    ],
)
def test_what_the_scheduler_of_diffusers_cannot_follow(changes, options, message) -> None:
    facts = replace(student("flux", policy="dx").facts, **changes)
    with pytest.raises(UsageError, match=message) as caught:
        PiflowSchedulerFormat().check(facts, ExportRequest("s", "piflow-scheduler", Path("out"), **options))
    assert caught.value.hint


def test_a_diffusers_without_the_scheduler_is_named(monkeypatch) -> None:
    monkeypatch.setattr(piflow_scheduler, "diffusers", SimpleNamespace())
    monkeypatch.setattr(piflow_scheduler.importlib.metadata, "version", lambda name: "0.41.0")
    with pytest.raises(UsageError, match="diffusers 0.41.0 has no PiflowScheduler") as caught:
        PiflowSchedulerFormat().check(
            student("flux", policy="dx").facts, ExportRequest("s", "piflow-scheduler", Path("out"))
        )
    assert caught.value.hint == 'pip install -U "diffusers>=0.42"'


@pytest.mark.parametrize(("stock", "trusted"), [(True, 0), (False, 1)])
def test_the_snippet_trusts_code_only_where_there_is_some(stock, trusted) -> None:
    format = PiflowSchedulerFormat()
    format.stock = stock
    snippet = format.snippet(student("flux", policy="dx").facts, "owner/name")
    compile(snippet, "snippet", "exec")
    assert snippet.count("trust_remote_code=True") == trusted and "set_timesteps(2)" in snippet
