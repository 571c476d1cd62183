"""An error that needs no torch comes before torch is loaded: who has slipped does not wait for seconds of imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "datasets", "PIL")
# Types every line, and tells of each its exit code, what it said, and what of HEAVY has been loaded by then.
PROGRAM = f"""
import contextlib, io, json, shlex, sys
from piflow_cli.app import main
for line in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(shlex.split(line))
    loaded = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([line, code, said.getvalue(), loaded]))
"""
LINES = {
    # A student, teacher or file that is not there, or is something else
    "sample nowhere": "there is no student at nowhere",
    "sample empty": "empty is not a student",
    "sample empty --subfolder x": "there is no folder empty/x",
    "sample --teacher nope": "no teacher is named 'nope'",
    "sample --teacher broken.yaml": "not valid YAML",
    "sample --teacher digits --base ./nowhere": "there is nothing at nowhere",
    "sample --teacher digits --prompts nowhere.txt": "there are no prompts at nowhere.txt",
    "eval nowhere": "there is no student at nowhere",
    "eval empty": "empty is not a student",
    "eval student --teacher nope": "no teacher is named 'nope'",
    "eval student --prompts nowhere.txt": "there are no prompts at nowhere.txt",
    "eval student --reference nowhere": "there is no reference nowhere",
    "eval --images nowhere --reference full": "there is no folder nowhere",
    "export nowhere --format adapter": "there is no student at nowhere",
    "export student --format adapter --base ./nowhere": "there is nothing at nowhere",
    "inspect-policy nowhere": "there is no student at nowhere",
    "inspect-policy --compare student nowhere": "there is no student at nowhere",
    "inspect-policy student --prompts nowhere.txt": "there are no prompts at nowhere.txt",
    "distill --teacher nope": "no teacher is named 'nope'",
    "distill --teacher broken.yaml": "not valid YAML",
    "distill --teacher nowhere.yaml": "cannot read nowhere.yaml",
    "distill --teacher digits --config nowhere.yaml": "cannot read nowhere.yaml",
    "distill --teacher digits --base ./nowhere": "there is nothing at",
    "distill --teacher digits --data nowhere": "there are no pictures at",
    "distill --teacher flux-dev --base full --prompts nowhere.txt": "there are no prompts at",
    "distill --teacher flux-dev --base full --data ./nowhere": "there are no pictures at",
    "distill --teacher wan21-1.3b --base full --data ./nowhere": "there are no videos at",
    "distill --teacher digits --fork nowhere --output new": "nowhere is no run with a whole checkpoint",
    "status nowhere": "nowhere is not there",
    # What is in the way
    "sample student --output full": "full is not empty",
    "eval student --output full": "full is not empty",
    "export student --format adapter --output full": "full is not empty",
    "inspect-policy student --output full": "full is not empty",
    "inspect-policy student --output full --overwrite": "full holds something that piflow inspect-policy did not",
    "distill --teacher digits --output full": "full is not empty and holds no run",
    "distill --teacher digits --output full --dry-run": "full is not empty and holds no run",
    "sample student --output broken.yaml": "broken.yaml is a file",
    "distill --teacher digits --output broken.yaml": "broken.yaml is a file",
    # Values that are wrong, and options that do not go together
    "sample": "neither a student nor a teacher given",
    "sample student --seeds x": "neither a number nor a range",
    "sample --teacher digits --shift 2": "are settings of a policy",
    "sample student --offload group --compile": "--offload group excludes --compile",
    "eval": "neither a student nor --images DIR given",
    "eval student --metrics fud": "there is no metric 'fud'",
    "eval student --extractor nope --metrics fid": "there is no extractor nope",
    "eval --images full": "wants to know what to compare with",
    "export student --format nope": "no such format",
    "export student --format adapter --dtype x": "no such dtype",
    "export student --format adapter --push-to-hub x": "no name of a repository",
    "inspect-policy student --slice x": "not a column and a row",
    "inspect-policy student --seeds 0-999": "a report has room for",
    "distill --teacher digits --set x=1": "unknown key",
    "distill --teacher digits --nfe 0": "--nfe 0: must be at least 1",
    "distill --teacher digits --tracker nope": "--tracker",
    "nonsense": "No such command 'nonsense'",
}


@pytest.fixture(scope="module")
def told(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, list[str]]]:
    """What each line came to, in one process: exit code, words on stderr, and what was loaded."""
    folder = tmp_path_factory.mktemp("early")
    for name in ("empty", "full"):
        (folder / name).mkdir()
    (folder / "full" / "thesis.tex").write_text("years of work")
    (folder / "broken.yaml").write_text("teacher: [")
    (folder / "student").symlink_to(tiny_run)
    typed = [sys.executable, "-c", PROGRAM, json.dumps(list(LINES))]
    done = subprocess.run(typed, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, done.stdout.splitlines())
    return {line: (code, words, loaded) for line, code, words, loaded in rows}


@pytest.mark.parametrize("line", LINES)
def test_a_slip_is_told_before_anything_heavy_is_loaded(told, line: str) -> None:
    code, words, loaded = told[line]
    assert code == 2 and words.startswith("Error: ") and LINES[line] in " ".join(words.split())
    assert loaded == []
