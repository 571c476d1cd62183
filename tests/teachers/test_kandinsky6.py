"""Kandinsky 6: what its network is told, against the stock pipeline without sound, and what is no teacher."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from euler_steps import euler
from zoo import ZOO, conditioning, states

from piflow_cli.core.guidance import Guidance
from piflow_cli.errors import UsageError
from piflow_cli.presets.resolve import load
from piflow_cli.sampling.denoise import sample_by_pipeline, sample_teacher
from piflow_cli.teachers import family_of
from piflow_cli.teachers.encoders import ATTENTION_MASK

FAMILY, ROW = family_of("kandinsky6", 5.0), ZOO["kandinsky6"]


def test_guided_videos_are_those_of_the_stock_pipeline_without_sound() -> None:
    """Each text at its own length, which is how that pipeline has it where it encodes texts itself."""
    model, x, given, steps = ROW.build(), states(ROW), conditioning(ROW), 3
    pipeline = FAMILY.pipeline(model, euler(steps))
    pipeline.set_progress_bar_config(disable=True)
    theirs = []
    for at in range(len(x)):
        told = {name: value[at : at + 1] for name, value in given.items() if "mask" not in name}
        for half in ("", "negative_"):
            length = given[f"{half}{ATTENTION_MASK}"][at].sum()
            told[f"{half}prompt_embeds"] = told[f"{half}prompt_embeds"][:, :length]
        size = {"height": 64, "width": 96, "num_frames": 9, "num_inference_steps": steps, "output_type": "latent"}
        made = pipeline(**told, **size, guidance_scale=5.0, sample_audio=False, latents=x[at : at + 1])
        assert made.audio is None
        theirs.append(made.frames)
    expected = torch.cat(theirs)
    ours = sample_teacher(FAMILY, model, x, given, steps, 2.0, Guidance(5.0))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sample_by_pipeline(FAMILY, pipeline, x, given, steps), expected, rtol=1e-4, atol=1e-4)


def test_the_empty_prompt_is_the_pipelines_own_negative_one_and_padding_is_left_out() -> None:
    asked, mask = [], torch.tensor([[True, True, False]])

    def encode_prompt(text: str, **options: object) -> tuple:
        asked.append(text)
        return torch.ones(1, 3, 4), torch.zeros(1, 2), mask if text == "a fox" else None, None, None, None

    kind = diffusers.Kandinsky6TI2VAPipeline
    made = SimpleNamespace(encode_prompt=encode_prompt, _DEFAULT_NEGATIVE_PROMPT=kind._DEFAULT_NEGATIVE_PROMPT)
    found = FAMILY.encode_prompts(made, ["a fox", ""])
    assert asked == ["a fox", kind._DEFAULT_NEGATIVE_PROMPT]
    assert [len(text["prompt_embeds"]) for text in found] == [2, 3]
    assert all(text[ATTENTION_MASK].all() and text["pooled_prompt_embeds"].shape == (2,) for text in found)


def test_the_preset_is_the_stock_pipelines_and_its_published_students() -> None:
    told, preset = inspect.signature(diffusers.Kandinsky6TI2VAPipeline.__call__).parameters, load("kandinsky6")
    assert told["guidance_scale"].default == preset.teacher.guidance
    assert told["max_sequence_length"].default == FAMILY.text_length
    assert told["num_frames"].default == preset.data.frames and told["frame_rate"].default == FAMILY.frame_rate
    theirs = diffusers.PiflowScheduler().config
    assert (theirs.shift, theirs.n_grid, theirs.final_step_size_scale, theirs.num_policy_substeps) == (
        preset.policy.shift, preset.policy.components, preset.policy.final_step_scale, preset.policy.substeps,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_visual_dim": 12}, "gives 12 channels for 4: it is a student, no teacher"),
        ({"visual_cond": False}, "has no input for a first frame"),
    ],
)
def test_a_network_that_is_no_teacher_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    config = {"_class_name": ROW.model_name, **ROW.config, "visual_cond": True, **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message):
        FAMILY.outline(tmp_path)


def test_adapters_are_where_the_video_is_made() -> None:
    targets = FAMILY.adapter_targets(ROW.build())
    assert len(targets) == 2 + 2 * 1 + 2 * 2 and not any("audio" in path for path in targets)
