"""A policy of another package, named by its entry point alone, goes where ours go."""

from __future__ import annotations

import json

from outside_packages import run_commands


def test_a_policy_of_another_package_is_distilled_sampled_measured_looked_into_and_exported(
    tiny_teacher, tmp_path
) -> None:
    distil = ["distill", "--teacher", str(tiny_teacher), "--policy", "straight", "--output", "run", "--quiet"]
    measured = ["--extractor", "pixels", "--metrics", "fid", "--reference", "data", "--num-images", "20"]
    commands = [
        [*distil, "--iterations", "2"],
        [*distil, "--iterations", "4"],
        ["sample", "run", "--seeds", "0-2", "--output", "samples", "--quiet"],
        ["eval", "run", *measured, "--output", "report", "--cache", "cache", "--json"],
        ["inspect-policy", "run", "--seeds", "0-1", "--output", "look", "--json"],
        ["export", "run", "--format", "adapter", "--output", "adapter", "--quiet"],
        ["sample", "adapter", "--seeds", "0-2", "--output", "again", "--quiet"],
        ["export", "run", "--format", "pipeline", "--output", "pipeline", "--quiet"],
    ]
    done = run_commands(commands, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert config["_class_name"] == "StraightDiT"
    for name in ("000000.png", "000002.png"):
        assert (tmp_path / "samples" / name).read_bytes() and (tmp_path / "again" / name).is_file()
    assert "class StraightPolicy" in (tmp_path / "pipeline" / "scheduler" / "policy_scheduler.py").read_text()
    # Its layers are known to exports, which keep those of heads in full precision.
    (code,) = (tmp_path / "pipeline" / "transformer").glob("policy_*.py")
    assert "return ('lines',)" in code.read_text()


def test_it_is_named_beside_ours_where_a_name_is_wrong(tiny_teacher, tmp_path) -> None:
    command = ["distill", "--teacher", str(tiny_teacher), "--policy", "curved", "--output", "run"]
    done = run_commands([command], tmp_path)
    assert done.returncode == 2 and "straight" in done.stderr and "momentum" in done.stderr
