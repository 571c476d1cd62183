"""Limits of the system that a save meets: said, and nothing that was saved before is lost."""

from __future__ import annotations

import sys

import pytest

from piflow_cli.students.run_checkpoints import checkpoints


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_limit_on_the_size_of_files_ends_the_run_with_what_to_type(cli, tiny_teacher, tmp_path) -> None:
    import resource

    folder = tmp_path / "out"
    arguments = ["distill", "--teacher", str(tiny_teacher), "--output", str(folder)]
    assert cli(*arguments, "--quiet", "--iterations", "2").code == 0
    size = (folder / "checkpoints" / "0000002" / "training.safetensors").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        outcome = cli(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (
        outcome.code == 1
        and "the file is larger than this system lets it be" in outcome.err
        and "ulimit -f unlimited" in outcome.err
    )
    assert [path.name for path in checkpoints(folder / "checkpoints")] == ["0000002"]
    assert cli(*arguments, "--quiet").code == 0
