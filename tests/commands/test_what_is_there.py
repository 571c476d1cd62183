"""What each command that writes does about a folder that holds something: `piflow_cli.system.outputs` has the rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from piflow_cli.system.files import files_digest

STUDENT, NAMED = "tiny", {"sample": [], "eval": [], "export": ["--format", "adapter"], "inspect-policy": []}
USUAL = {
    "sample": "samples/tiny",
    "eval": "evals/tiny",
    "export": "exports/tiny-adapter",
    "inspect-policy": "inspection/tiny",
}
SHORT = {
    "sample": ["--seeds"],
    "eval": ["--fine-steps", "2", "--metrics", "alignment", "--cache", "cache", "--save-images", "--seeds"],
}


@pytest.fixture
def here(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a link to a student."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / STUDENT).symlink_to(tiny_run)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): files_digest([path]) for path in files}


@pytest.mark.parametrize("command", USUAL)
def test_a_named_folder_that_holds_something_is_refused_and_stays(cli, here: Path, command: str) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("years of work")
    for more, said in (([], "mine is not empty"), (["--overwrite"], "did not write: thesis.tex")):
        outcome = cli(command, STUDENT, *NAMED[command], "--output", "mine", *more)
        assert outcome.code == 2 and said in outcome.err and "--output DIR" in outcome.err
    assert contents(here / "mine").keys() == {"thesis.tex"}


@pytest.mark.parametrize("command", ["export", "inspect-policy"])
def test_the_folder_of_the_shell_is_not_replaced(
    cli, here: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It failed when all was made, as one that has no name."""
    (here / "mine").mkdir()
    monkeypatch.chdir(here / "mine")
    outcome = cli(command, str(tiny_run), *NAMED[command], "--output", ".")
    assert outcome.code == 2 and "is the current folder, and cannot be replaced" in outcome.err
    assert not contents(here / "mine")


@pytest.mark.parametrize("command", ["sample", "eval"])
def test_unnamed_folders_are_numbered_and_overwrite_leaves_nothing_of_the_earlier_ones(
    cli, here: Path, command: str
) -> None:
    """The others replace a whole folder, which their own tests show."""
    first, second = here / USUAL[command], here / f"{USUAL[command]}-2"
    assert cli(command, STUDENT, *SHORT[command], "0-3", "--quiet").code == 0
    before = contents(first)
    assert cli(command, STUDENT, *SHORT[command], "4-5", "--quiet").code == 0
    after = contents(second)
    assert contents(first) == before and not any("000000" in name for name in after)
    assert cli(command, STUDENT, *SHORT[command], "4-5", "--overwrite", "--quiet").code == 0
    assert contents(first).keys() == after.keys()
    # Grids and pictures are those of the same seeds; a report has its time.
    assert {name: contents(first)[name] for name in after if "0000" in name or name == "grid.png"} == {
        name: after[name] for name in after if "0000" in name or name == "grid.png"
    }


def test_pictures_without_recipes_are_known_by_their_grid(cli, here: Path) -> None:
    told = ["sample", STUDENT, "--no-metadata", "--output", "out", "--quiet", "--seeds"]
    assert cli(*told, "0-3").code == 0
    assert cli(*told, "5", "--overwrite").code == 0
    assert contents(here / "out").keys() == {"000005.png", "grid.png"}
    (here / "out" / "grid.png").unlink()
    outcome = cli(*told, "6", "--overwrite")
    assert outcome.code == 2 and "did not write: 000005.png" in outcome.err


def test_what_a_killed_command_left_half_written_is_its_own(cli, here: Path) -> None:
    told = ["sample", STUDENT, "--output", "out", "--quiet", "--seeds"]
    assert cli(*told, "0").code == 0
    (here / "out" / ".000001.png.0123456789abcdef.tmp").write_bytes(b"\x89PNG")
    assert cli(*told, "1", "--overwrite").code == 0
    assert contents(here / "out").keys() == {"000001.png", "grid.png"}


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ([], "digits"),
        (["--policy", "dx"], "digits-dx"),
        (["--nfe", "4"], "digits-4nfe"),
        (["--policy", "dx", "--nfe", "2"], "digits-dx-2nfe"),
        (["--set", "policy.kind=momentum", "--set", "seed=1"], "digits-momentum"),
    ],
)
def test_a_run_is_called_by_what_it_holds(cli, training, here: Path, options: list[str], folder: str) -> None:
    assert cli("distill", "--teacher", "digits", *options).code == 0
    assert training.runs[-1]["output"] == Path("runs") / folder


def test_the_settings_of_a_run_lead_to_its_own_folder(cli, training, here: Path) -> None:
    """A file of one's own is compared with itself, a run's file with the preset that it is of."""
    (here / "mine.yaml").write_text("extends: digits\nname: mine\npolicy: {nfe: 2}\n")
    for options, folder in ([], "mine"), (["--nfe", "4"], "mine-4nfe"):
        assert cli("distill", "--teacher", "mine.yaml", *options).code == 0
        assert training.runs[-1]["output"] == Path("runs") / folder
    settings = cli("distill", "--teacher", "digits", "--policy", "dx", "--print-config").out
    (here / "run.yaml").write_text(settings)
    assert cli("distill", "--teacher", "run.yaml").code == 0
    assert training.runs[-1]["output"] == Path("runs/digits-dx")


def test_a_run_of_other_settings_is_refused_with_a_folder_that_is_free(cli, here: Path, tiny_run: Path) -> None:
    settings = str(tiny_run / "run.yaml")
    outcome = cli("distill", "--teacher", settings, "--set", "seed=5", "--output", STUDENT, "--dry-run", "--json")
    told = json.loads(outcome.err)
    assert outcome.code == 2 and "belongs to another configuration" in told["error"]
    assert f"name another folder with --output {STUDENT}-2" in told["hint"]
