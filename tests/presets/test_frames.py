"""`data.frames`: how many frames a video has, and the teachers that it is of."""

from __future__ import annotations

import pytest

from piflow_cli.errors import UsageError
from piflow_cli.presets.families import frames_near
from piflow_cli.presets.resolve import load, resolve

PROMPTS = {"data.prompts": "prompts.txt"}


def refusal(name: str, *assignments: str, **options: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(name, None, list(assignments), options or PROMPTS)
    return caught.value


@pytest.mark.parametrize(("frames", "nearest"), [(80, (81, 77)), (2, (1, 5)), (82, (81, 85))])
def test_frames_that_the_teacher_cannot_make_are_refused_with_the_nearest(
    frames: int, nearest: tuple[int, int]
) -> None:
    error = refusal("wan21-1.3b", f"data.frames={frames}")
    assert f"is {frames}, and teachers of the family wan make videos of 4 n + 1 frames: give" in error.message
    assert f"{min(nearest)} or {max(nearest)}" in error.message
    assert error.hint == f"type --set data.frames={nearest[0]}"
    for other in nearest:
        assert resolve("wan21-1.3b", None, [f"data.frames={other}"], PROMPTS).data.frames == other


@pytest.mark.parametrize(
    ("value", "message"),
    [("0", "at least 1"), ("1001", "at most 1,000"), ("yes", "whole number"), ('"81"', "whole number")],
)
def test_frames_are_a_whole_number_within_bounds(value: str, message: str) -> None:
    assert message in str(refusal("wan21-1.3b", f"data.frames={value}"))


def test_a_teacher_of_pictures_has_no_frames() -> None:
    error = refusal("flux-dev", "data.frames=81")
    assert "is 81, and teachers of the family flux make pictures: give null" in error.message


def test_a_teacher_of_videos_is_told_how_many_frames() -> None:
    error = refusal("wan21-1.3b", "data.frames=null")
    assert "is missing: teachers of the family wan make videos of 4 n + 1 frames" in error.message
    assert error.hint is not None and "--set data.frames=81" in error.hint


def test_a_teacher_of_videos_learns_from_videos_too() -> None:
    preset = resolve("wan21-1.3b", None, [], {"data.captioned": "videos"})
    assert (preset.data.source, preset.data.frames, preset.data_free) == ("captioned", 81, False)


def test_the_preset_of_wan_has_the_sizes_of_its_stock_pipeline() -> None:
    preset = load("wan21-1.3b")
    assert (preset.data.sizes, preset.data.frames) == (((832, 480),), 81)
    assert (preset.teacher.guidance, preset.teacher.guidance_mode, preset.policy.shift) == (5.0, "plain", 3.0)


def test_the_preset_of_wan_22_ti2v_has_the_sizes_of_its_recipe() -> None:
    preset = load("wan22-5b")
    assert (preset.data.sizes, preset.data.frames) == (((1280, 704),), 121)
    assert (preset.teacher.guidance, preset.teacher.guidance_mode, preset.policy.shift) == (5.0, "plain", 5.0)
    error = refusal("wan22-5b", "data.frames=120")
    assert "teachers of the family wan-ti2v make videos of 4 n + 1 frames" in error.message
    assert error.hint == "type --set data.frames=121"


def test_the_nearest_lengths_of_videos() -> None:
    assert frames_near(81, 4) == [81] and frames_near(81, 8) == [81] and frames_near(85, 8) == [81, 89]
    assert frames_near(1, 4) == [1]
