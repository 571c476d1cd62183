"""Wan 2.2 A14B: two networks against their stock pipeline, and what does not go with two."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from euler_steps import euler, euler_at
from exports import export
from exports import student as moved_student
from safetensors.torch import load_file, save_file
from torch import Tensor
from zoo import ZOO, certain, conditioning, states, student_of

from piflow_cli.core.guidance import Guidance
from piflow_cli.core.timegrid import to_sigma
from piflow_cli.errors import RunError, UsageError
from piflow_cli.exporting.formats import FORMATS
from piflow_cli.exporting.request import ExportRequest
from piflow_cli.presets.families import edge_of
from piflow_cli.presets.resolve import load, resolve
from piflow_cli.sampling.denoise import sample_by_pipeline, sample_teacher
from piflow_cli.students.facts import time_grid
from piflow_cli.teachers import family_of, wan_a14b
from piflow_cli.teachers.base import guidance_of
from piflow_cli.teachers.network_pair import NetworkPair

ROW = ZOO["wan-a14b"]
FAMILY = family_of("wan-a14b", 4.0, 3.0)
SHIFT = ROW.policy["shift"]
SIZE = {"height": 64, "width": 96, "num_frames": 9, "output_type": "latent"}


def stock(model: NetworkPair, scheduler: Any, boundary: float) -> diffusers.WanPipeline:
    made = diffusers.WanPipeline(
        None, None, None, scheduler, model.high_noise, model.low_noise, boundary_ratio=boundary
    )
    made.set_progress_bar_config(disable=True)
    return made


def calls_of(model: NetworkPair) -> list[tuple[str, dict, Tensor]]:
    """A list that fills with the calls of each network: its name, what it was told, and its answer."""
    calls = []
    for name in ("high_noise", "low_noise"):
        getattr(model, name).register_forward_hook(
            lambda module, args, told, output, name=name: calls.append((name, told, output[0])), with_kwargs=True
        )
    return calls


def test_each_network_is_called_as_by_the_stock_pipeline() -> None:
    """Bit by bit, by the boundary of the pipeline, with its own guidance: 4 above and 3 below."""
    model, x, given = ROW.build(), states(ROW), conditioning(ROW)
    scheduler, calls = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0), calls_of(model)
    told = {**given, "guidance_scale": 4.0, "guidance_scale_2": 3.0}
    expected = stock(model, scheduler, 0.875)(**told, latents=x, num_inference_steps=6, **SIZE)[0]
    theirs, calls[:] = list(calls), []
    assert [name for name, *_ in theirs] == ["high_noise"] * 3 * 2 + ["low_noise"] * 3 * 2
    negative = {"prompt_embeds": given["negative_prompt_embeds"]}
    for place, (name, asked, output) in enumerate(theirs):
        with torch.no_grad():
            sigma = asked["timestep"] / 1000
            ours = FAMILY.call(model, asked["hidden_states"], sigma, negative if place % 2 else given)
        assert ours.equal(output) and calls.pop()[0] == name
    made = sample_by_pipeline(FAMILY, FAMILY.pipeline(model, scheduler), x, given, 6)
    torch.testing.assert_close(made, expected, rtol=0, atol=0)


def test_the_guided_teacher_of_training_follows_the_stock_pipeline() -> None:
    """Euler steps by velocities that training would match, against those of the pipeline."""
    model, x, given = ROW.build(), states(ROW), conditioning(ROW)
    section = load("wan22-a14b").teacher
    guidance = guidance_of(section)
    assert (guidance.scale, guidance.below) == (4.0, (edge_of("wan-a14b"), 3.0))

    told = {**given, "guidance_scale": 4.0, "guidance_scale_2": 3.0}
    expected = stock(model, euler(5, 5.0), 0.875)(**told, latents=x, num_inference_steps=5, **SIZE)[0]
    found = sample_teacher(FAMILY, model, x, given, 5, 5.0, guidance)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    plain = sample_teacher(FAMILY, model, x, given, 5, 5.0, Guidance(4.0))
    assert not torch.allclose(plain, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_a_new_student_makes_the_latents_of_its_stock_pipeline(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of constant x_0 a segment is one Euler step: the second, which starts on the boundary, by the second network."""
    base, x = ROW.build(), states(ROW)
    given = {"prompt_embeds": conditioning(ROW)["prompt_embeds"]}
    boundary = FAMILY.pipeline_options["boundary_ratio"]
    calls = calls_of(base)
    expected = stock(base, euler_at([1.0, 1 / 3], SHIFT), boundary)(
        **given,
        negative_prompt_embeds=given["prompt_embeds"],
        guidance_scale=1.0,
        latents=x,
        num_inference_steps=2,
        **SIZE,
    )[0]
    assert [name for name, *_ in calls] == ["high_noise", "low_noise"]
    student = certain(ROW, policy, monkeypatch)
    calls = calls_of(student.model.base)
    pipeline = student.family.pipeline(student.model.base, student.scheduler())
    pipeline.set_progress_bar_config(disable=True)
    found = sample_by_pipeline(student.family, pipeline, x, given, 2)
    assert [name for name, *_ in calls] == ["high_noise", "low_noise"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_both_networks_are_what_each_makes_of_its_own() -> None:
    model, given = ROW.build(), {"prompt_embeds": conditioning(ROW)["prompt_embeds"].repeat(2, 1, 1)}
    x, sigma = states(ROW, 4), torch.tensor([0.3, 0.95, 0.875, 0.8752], dtype=torch.float64)
    found = FAMILY.call(model, x, sigma, given)
    for rows, network in (([0, 2], model.low_noise), ([1, 3], model.high_noise)):
        own = {name: value[rows] for name, value in given.items()}
        alone = network(x[rows], timestep=1000 * sigma[rows].float(), encoder_hidden_states=own["prompt_embeds"])[0]
        torch.testing.assert_close(found[rows], alone, rtol=1e-5, atol=1e-5)


def test_a_backward_pass_reaches_both_networks_where_it_is_to() -> None:
    """With zeros in the one that was not asked, and nowhere without being told."""
    student = student_of(ROW, ROW.build())
    told, low = conditioning(ROW), torch.tensor([0.2, 0.3], dtype=torch.float64)

    def gradients() -> dict[str, Tensor | None]:
        student.policy(student.model, states(ROW), low, told).means.square().mean().backward()
        found = {name: value.grad for name, value in student.model.named_parameters()}
        for value in student.model.parameters():
            value.grad = None
        return found

    alone = gradients()
    assert {name.partition(".")[0] for name, value in alone.items() if value is not None} == {"low_noise"}
    student.model.base.reach(student.model.parameters())
    both = gradients()
    for name, value in both.items():
        assert value is not None
        before = alone[name]
        torch.testing.assert_close(value, torch.zeros_like(value) if before is None else before, rtol=0, atol=0)


INDEX = {"boundary_ratio": 0.875}


def write_base(folder: Path, index: dict, second: dict | None) -> None:
    """The configs of a pipeline of the class, without weights."""
    config = {"_class_name": ROW.model_name, **ROW.config}
    for name, changes in (("transformer", {}), ("transformer_2", second)):
        if changes is not None:
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("index", "second", "message"),
    [
        (INDEX, None, "there is no transformer_2 in .*, and this teacher is two networks"),
        (INDEX, {"num_layers": 3}, "the two networks in .* differ in num_layers"),
        ({"boundary_ratio": 0.9}, {}, "takes over below a noise level of 0.875, .* its index says 0.9"),
        ({"transformer_2": [None, None]}, {}, "its index says nothing of a second network"),
        (INDEX | {"expand_timesteps": True}, {}, "is told a time for each token, unlike those of the family wan-a14b"),
    ],
)
def test_bases_of_other_models_are_refused(tmp_path: Path, index: dict, second: dict | None, message: str) -> None:
    write_base(tmp_path, index, second)
    with pytest.raises(UsageError, match=message) as caught:
        FAMILY.outline(tmp_path)
    assert caught.value.hint


def test_a_fault_in_the_second_network_is_one_line_with_its_file(tmp_path: Path) -> None:
    ROW.save(tmp_path)
    file = tmp_path / "transformer_2" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["proj_out.bias"][0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(RunError, match="transformer_2.*holds values that are not finite in proj_out.bias"):
        FAMILY.load(tmp_path)


def test_each_network_is_quantised_but_for_its_own_delicate_layers(tmp_path: Path, monkeypatch) -> None:
    """By their names in that network: those of the other one do not count."""
    ROW.save(tmp_path)
    asked = {}

    def loaded(kind: Any, place: Path, dtype: torch.dtype, kept: set[str]) -> torch.nn.Module:
        asked[place.name] = kept, dtype
        return kind.from_pretrained(place)

    # What reads the weights in fewer bits is of bitsandbytes and a GPU.
    monkeypatch.setattr(wan_a14b, "quantised_loading", lambda precision, keep: {"kept": set(keep)})
    monkeypatch.setattr(wan_a14b, "load_model", loaded)
    assert isinstance(FAMILY.load_base(tmp_path, "nf4"), NetworkPair)
    wan = family_of("wan")
    kept = wan.kept_whole(ZOO["wan"].build())
    assert asked == dict.fromkeys(("transformer", "transformer_2"), (kept, torch.bfloat16)) and len(kept) == 3


def refusal(name: str, *settings: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(name, None, list(settings), {"data.prompts": "prompts.txt"})
    return caught.value


@pytest.mark.parametrize(
    ("name", "setting", "message", "mend"),
    [
        ("wan22-a14b", "policy.shift=5", "no segment starts at the noise level 0.875", "policy.shift=2.8"),
        ("wan22-a14b", "policy.nfe=3", "give 4.6667 (1 of 3 above) or 28 (2 of 3 above)", "policy.shift=4.6667"),
        ("wan22-a14b", "policy.nfe=1", "needs a segment on each side of the noise level 0.875", "policy.nfe=2"),
        ("wan22-a14b", "teacher.guidance=1", "is 3 beside teacher.guidance 1", "teacher.guidance_2=null"),
        ("wan22-a14b", "teacher.loras=[a.safetensors]", "do not say of which of the teacher's two networks", "out"),
        ("wan22-5b", "teacher.guidance_2=3", "teachers of the family wan-ti2v have one", "guidance_2=null"),
    ],
)
def test_what_excludes_two_networks_is_named(name: str, setting: str, message: str, mend: str) -> None:
    error = refusal(name, setting)
    assert message in error.message and error.hint is not None and mend in error.hint


@pytest.mark.parametrize(("shift", "above"), [(2.8, 1), (9.3333, 2), (42, 3)])
def test_a_shift_that_is_told_puts_a_segment_on_the_boundary(shift: float, above: int) -> None:
    """Every segment is of the network that knows all its noise levels."""
    preset = resolve("wan22-a14b", None, [f"policy.shift={shift}"], {"data.prompts": "prompts.txt"})
    grid, edge = time_grid(preset), edge_of("wan-a14b")
    levels = [to_sigma(raw, grid.shift) for raw in grid.edges]
    assert [level > edge for level in levels] == [True] * above + [False] * (5 - above)
    assert levels[above] == pytest.approx(0.875, abs=1e-4)


@pytest.mark.parametrize("format", ["merged", "piflow-scheduler"])
def test_formats_of_one_network_refuse_two(format: str) -> None:
    facts = student_of(ROW, ROW.build(), "dx").facts
    with pytest.raises(UsageError, match=f"the format {format} holds one network, and the student has two"):
        FORMATS[format].open().check(facts, ExportRequest("student", format, Path("out")))


def test_a_pipeline_of_the_student_says_where_its_second_network_begins(tmp_path: Path) -> None:
    """Just above the boundary, on which the second one's first segment starts; read back, it makes the same latents."""
    ROW.save(tmp_path / "base")
    folder = export(moved_student("wan-a14b", tmp_path / "base"), "pipeline", tmp_path / "out")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["boundary_ratio"] == edge_of("wan-a14b")
    assert [index[name][1] for name in ("transformer", "transformer_2")] == ["PolicyWanTransformer3DModel"] * 2
