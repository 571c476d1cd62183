"""Runs shown in trackers: TensorBoard itself, and stand-ins of the others behind accelerate's own classes."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from interruptions import interrupted_at
from run_rows import rows_of
from stand_ins import StandIn, stand_in

from piflow_cli.errors import UsageError
from piflow_cli.presets.choices import NO_TRACKER, TrackerName
from piflow_cli.presets.resolve import flat, to_dict
from piflow_cli.students.run_settings import read_settings
from piflow_cli.system.trackers import TRACKERS, tracker_of
from piflow_cli.training import run
from piflow_cli.training.tracking import SHOW

# Who is told that no account is to be used, and which words say so.
WITHOUT_ACCOUNT = {
    "wandb": ("WANDB_MODE", "offline"),
    "comet": ("COMET_START_ONLINE", "0"),
    "swanlab": ("SWANLAB_MODE", "offline"),
}
OF_ACCOUNTS = ("WANDB_", "COMET_", "SWANLAB_", "MLFLOW_", "TRACKIO_", "NETRC")


@dataclass(frozen=True)
class Asked:
    """What a run asks of a tracker: how it ``begins``, is told a preset's ``settings``, a row, a picture, the end.

    ``identity``: what it is told in the second start so that it goes on, and whether it was already in the first.
    """

    begins: str
    identity: tuple[str, bool]
    settings: str
    row: str
    picture: str
    ends: str


ASKED = {
    "wandb": Asked("init", ("id", True), "config.update", "init().log", "Image", "init().finish"),
    "trackio": Asked("init", ("name", True), "config.update", "init().log", "Image", "init().finish"),
    "mlflow": Asked("start_run", ("run_id", False), "log_params", "log_metrics", "log_image", "end_run"),
    "aim": Asked("Run", ("run_hash", False), "Run()", "Run().track", "Image", "Run().close"),
    "comet": Asked(
        "start", ("experiment_key", True), "start().log_parameters", "start().log_metric", "start().log_image",
        "start().end",
    ),
    "swanlab": Asked("init", ("id", True), "config.update", "init().log", "Image", "init().finish"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without any account, in a folder without settings."""
    for name in list(os.environ):
        if name.startswith(OF_ACCOUNTS):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> StandIn:
    """A stand-in of the tracker ``name``, which is to do without an account."""
    if name in WITHOUT_ACCOUNT:
        monkeypatch.setenv(*WITHOUT_ACCOUNT[name])
    return stand_in(monkeypatch, tmp_path / "packages", TRACKERS[name].module)


def arguments(teacher: Path, folder: Path, *more: str) -> list[str]:
    return ["distill", "--teacher", str(teacher), "--device", "cpu", "--output", str(folder), "--json",
            "--set", "output.preview_every=2", *more]  # fmt: skip


def values_of(fake: StandIn, name: str) -> dict[int, dict[str, float]]:
    """The numbers that a tracker was told, by iteration."""
    found: dict[int, dict[str, float]] = {}
    for given, options in fake.named(ASKED[name].row):
        one_by_one = {"aim": lambda: {options["name"]: given[0]}, "comet": lambda: dict([given])}
        values = one_by_one[name]() if name in one_by_one else given[0]
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        found.setdefault(options["step"], {}).update(numbers)
    return found


def settings_of(fake: StandIn, name: str) -> dict[str, Any]:
    """The settings that a tracker was told, in however many calls."""
    found: dict[str, Any] = {}
    for given, _ in fake.named(ASKED[name].settings):
        found |= given[-1] if isinstance(given[-1], dict) else {}
    return found


def as_told(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value)


def test_the_names_are_those_of_presets_and_of_accelerate() -> None:
    assert set(get_args(TrackerName)) == {NO_TRACKER, *TRACKERS}
    assert {tracker.module for tracker in TRACKERS.values()} == set(SHOW) <= set(LOGGER_TYPE_TO_CLASS)
    assert set(ASKED) == {*TRACKERS} - {"tensorboard"}


@pytest.mark.parametrize("name", ASKED)
def test_a_tracker_is_told_settings_rows_and_pictures(cli, tiny_teacher, tmp_path, monkeypatch, name) -> None:
    """Then it goes on with the same run of its own, from where the run of the folder goes on."""
    fake, asked, folder = installed(monkeypatch, tmp_path, name), ASKED[name], tmp_path / "out"
    assert cli(*arguments(tiny_teacher, folder, "--tracker", name, "--iterations", "2")).code == 0
    preset = flat(to_dict(read_settings(folder / "run.yaml")))
    assert settings_of(fake, name) == {key: as_told(value) for key, value in preset.items()}
    told = values_of(fake, name)
    rows = {row["iteration"]: row for row in rows_of(folder)}
    assert told.keys() == rows.keys() == {1, 2}
    for iteration, row in rows.items():
        assert told[iteration]["loss"] == row["loss"]
        assert told[iteration]["segment_losses/0"] == row["segment_losses"][0]
        assert told[iteration]["seconds/teacher"] == row["seconds"]["teacher"]
    # A preview, and teacher and student beside each other.
    assert len(fake.named(asked.picture)) == 2 and len(fake.named(asked.ends)) == 1
    assert all(given[0].mode == "RGB" for given, _ in fake.named(asked.picture))

    ((_, first),) = fake.named(asked.begins)
    key, told_at_once = asked.identity
    assert (first.get(key) is not None) == told_at_once
    recorded = json.loads((folder / "trackers.json").read_text())[name]
    fake.calls.clear()
    assert cli(*arguments(tiny_teacher, folder, "--tracker", name, "--iterations", "3")).code == 0
    ((_, second),) = fake.named(asked.begins)
    assert second[key] == recorded and (not told_at_once or first[key] == recorded)
    assert values_of(fake, name).keys() == {3} and settings_of(fake, name) == {}


def test_tensorboard_shows_a_run_as_one_whatever_stops_it(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "out"
    given = arguments(tiny_teacher, folder, "--tracker", "tensorboard", "--iterations", "5")
    monkeypatch.setattr(run, "train_step", interrupted_at(3))
    assert cli(*given).code == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli(*given).code == 0
    shown = EventAccumulator(str(folder / "piflow"))
    shown.Reload()
    rows = rows_of(folder)
    found = [(event.step, event.value) for event in shown.Scalars("loss")]
    assert found == [(row["iteration"], pytest.approx(row["loss"], rel=1e-6)) for row in rows] and len(rows) == 5
    assert [event.step for event in shown.Images("preview")] == [2, 4]
    assert [event.step for event in shown.Images("samples")] == [5]
    (told,) = (folder / "piflow").rglob("hparams.yml")
    preset = flat(to_dict(read_settings(folder / "run.yaml")))
    assert yaml.safe_load(told.read_text()) == {key: as_told(value) for key, value in preset.items()}


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.parametrize("option", ["--tracker", "--set output.tracker="])
def test_a_tracker_that_is_not_installed_is_refused_at_once(
    cli, tiny_teacher, tmp_path, monkeypatch, name, option
) -> None:
    find = importlib.util.find_spec
    module = TRACKERS[name].module
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *more: None if asked == module else find(asked))
    given = ["--tracker", name] if option == "--tracker" else ["--set", f"output.tracker={name}"]
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), *given)
    assert (outcome.code, outcome.out) == (2, "") and not (tmp_path / "out").exists()
    package = TRACKERS[name].packages[0]
    assert outcome.err.splitlines() == [
        f"Error: the tracker {name} is not installed", f'  → pip install "{package}", or --tracker none',
    ]  # fmt: skip


def test_a_folder_that_is_called_like_a_tracker_is_none(tmp_path, monkeypatch) -> None:
    (tmp_path / "aim").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="aim is not installed"):
        tracker_of("aim")


@pytest.mark.parametrize("name", WITHOUT_ACCOUNT)
def test_nobody_is_asked_for_an_account(cli, tiny_teacher, tmp_path, monkeypatch, name) -> None:
    fake = stand_in(monkeypatch, tmp_path / "packages", TRACKERS[name].module)
    outcome = cli("distill", "--teacher", str(tiny_teacher), "--output", str(tmp_path / "out"), "--tracker", name)
    assert (outcome.code, outcome.out, fake.calls) == (2, "", []) and not (tmp_path / "out").exists()
    assert f"the tracker {name} knows no account" in outcome.err and f"{name} login, or set " in outcome.err


LOGINS = {
    "wandb": ("home/.netrc", "machine api.wandb.ai login user password key\n"),
    "comet": ("home/.comet.config", "[comet]\napi_key = key\n"),
    "swanlab": ("home/.swanlab/.netrc", "machine https://api.swanlab.cn login https://swanlab.cn password key\n"),
}


@pytest.mark.parametrize("name", WITHOUT_ACCOUNT)
@pytest.mark.parametrize("said", ["key", "mode", "file"])
def test_an_account_is_known_by_key_mode_or_login(tmp_path, monkeypatch, name, said) -> None:
    stand_in(monkeypatch, tmp_path / "packages", TRACKERS[name].module)
    with pytest.raises(UsageError, match="knows no account"):
        tracker_of(name)
    if said == "key":
        monkeypatch.setenv(f"{name.upper()}_API_KEY", "key")
    elif said == "mode":
        monkeypatch.setenv(*WITHOUT_ACCOUNT[name])
    else:
        path, text = LOGINS[name]
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert tracker_of(name) is TRACKERS[name]


def test_wandb_offline_is_a_mode_and_the_login_is_of_its_own_server(tmp_path, monkeypatch) -> None:
    stand_in(monkeypatch, tmp_path / "packages", "wandb")
    (tmp_path / "home" / ".netrc").write_text("machine wandb.example.org login user password key\n")
    with pytest.raises(UsageError, match="knows no account"):
        tracker_of("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert tracker_of("wandb") is TRACKERS["wandb"]
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    assert tracker_of("wandb") is TRACKERS["wandb"]
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UsageError, match="knows no account"):
        tracker_of("wandb")


def test_a_tracker_neither_asks_nor_writes_among_the_results(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    fake = installed(monkeypatch, tmp_path, "swanlab")
    fake.acts["swanlab.init"] = lambda: print("welcome")
    typed = io.StringIO("1\n")
    monkeypatch.setattr(sys, "stdin", typed)
    given = arguments(tiny_teacher, tmp_path / "out", "--tracker", "swanlab", "--iterations", "1")
    outcome = cli(*given)
    assert json.loads(outcome.out)["iterations"] == 1 and fake.named("init")

    fake.acts["swanlab.init"] = lambda: input("Enter your choice [1/2/3]: ")
    outcome = cli(*given, "--no-resume")
    assert outcome.code == 1 and "the tracker swanlab does not start: " in outcome.err
    assert typed.tell() == 0 and sys.stdin is typed


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(cli, tiny_teacher, tmp_path, monkeypatch) -> None:
    fake = installed(monkeypatch, tmp_path, "wandb")

    def gone() -> None:
        raise ConnectionError("the network is gone")

    fake.acts["wandb.init().log"] = gone
    given = arguments(tiny_teacher, tmp_path / "out", "--tracker", "wandb")
    outcome = cli(*given)
    (warning,) = [json.loads(line)["warning"] for line in outcome.err.splitlines()]
    assert "the tracker fails" in warning and warning.endswith("the network is gone")
    assert outcome.code == 0 and len(fake.named("init().log")) == 1
    assert [row["iteration"] for row in rows_of(tmp_path / "out")] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "out" / "samples.png").is_file()
