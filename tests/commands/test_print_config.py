"""`piflow distill --print-config`: the resolved preset, which --config and --teacher read back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from piflow_cli.presets.resolve import available, load, resolve, to_dict
from piflow_cli.presets.schema import POLICY_KINDS
from piflow_cli.presets.yaml_files import read_yaml


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("kind", POLICY_KINDS)
def test_what_is_printed_is_read_back(cli, training, tmp_path, name, kind):
    printed = cli("distill", "--teacher", name, "--policy", kind, "--print-config")
    assert (printed.code, printed.err) == (0, "")
    expected = resolve(name, None, [], {"policy.kind": kind})
    assert yaml.safe_load(printed.out)["policy"]["kind"] == kind
    path = tmp_path / "printed.yaml"
    path.write_text(printed.out)
    assert resolve(name, path, [], {}) == load(path) == expected
    assert cli("distill", "--teacher", name, "--config", str(path), "--print-config").out == printed.out
    assert not training.runs and not list(tmp_path.glob("runs"))


VALUES = {
    "seed": st.integers(0, 2**63 - 1),
    "summary": st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1),
    "teacher.base": st.sampled_from(["owner/name", "1e5", "preset:digits", "true", "#x", "a: b"]),
    "teacher.revision": st.none() | st.sampled_from(["0123", "main", "null"]),
    "teacher.guidance": st.floats(1, 1000),
    "policy.kind": st.sampled_from(POLICY_KINDS),
    "policy.nfe": st.integers(1, 8),
    "policy.final_step_scale": st.floats(1e-3, 1),
    "policy.shift": st.floats(1e-9, 1000),
    "policy.temperature": st.just("auto") | st.floats(1e-9, 1),
    "imitation.data_free": st.none() | st.booleans(),
    "imitation.loss_scale": st.floats(1e-300, 1e9),
    "optimisation.learning_rate": st.floats(1e-12, 1),
    "optimisation.betas": st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2).map(list),
    "optimisation.device_batch_size": st.none() | st.integers(1, 16),
    "data.labels": st.just("uniform"),
    "data.captioned": st.sampled_from(["owner/pictures", "{here}"]),
    "data.sizes": st.lists(st.tuples(*[st.integers(1, 8192)] * 2).map(list), min_size=1, max_size=3),
    "adapter.rank": st.integers(1, 512),
    "output.tracker": st.sampled_from(["none", "wandb"]),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(st.sampled_from(available()), st.fixed_dictionaries({}, optional=VALUES), st.booleans())
def test_what_is_printed_under_any_options_is_read_back(cli, tmp_path_factory, name, values, as_json):
    values = {"imitation.window": 0, **values}
    assignments = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = ["distill", "--teacher", name, "--print-config", *(["--json"] if as_json else [])]
    printed = cli(*command, *assignments)
    # Some of these exclude each other.
    assume(printed.code == 0)
    assert printed.err == ""
    whole = read_yaml(printed.out, "printed")[0]
    for key, value in values.items():
        section, _, field = key.rpartition(".")
        # Of several sources of data the last counts.
        if section != "data":
            assert (whole[section] if section else whole)[field] == value
    path = tmp_path_factory.mktemp("printed") / "c.yaml"
    path.write_text(printed.out, encoding="utf-8")
    again = cli(*command, "--config", str(path))
    assert (again.code, again.err, again.out) == (0, "", printed.out)


def test_beside_another_teacher_it_sets_all_and_may_do_nothing_there(cli, tmp_path):
    """As configuration.md says."""
    path = tmp_path / "c.yaml"
    path.write_text(cli("distill", "--teacher", "flux-dev", "--print-config").out)
    command = ["distill", "--config", str(path), "--print-config", "--teacher"]
    teacher = json.loads(cli(*command, "qwen-image", "--json").out)["teacher"]
    assert teacher["base"] == load("flux-dev").teacher.base
    path.write_text(cli("distill", "--teacher", "digits", "--print-config").out)
    outcome = cli(*command, "flux-dev")
    assert outcome.code == 2 and "policy.final_step_scale: does nothing at policy.nfe 1" in outcome.err


def test_everything_the_command_line_changes_is_in_it(cli, tmp_path):
    (tmp_path / "c.yaml").write_text("policy: {substeps: 64, nfe: 2}\n")
    (tmp_path / "prompts.txt").write_text("a hat\n")
    options = ["--config", str(tmp_path / "c.yaml"), "--set", "policy.nfe=3", "--set", "policy.shift=2", "--nfe", "4"]
    outcome = cli("distill", "--teacher", "flux-dev", *options, "--prompts", str(tmp_path / "prompts.txt"),
                  "--json", "--print-config", "--base", "owner/name", "--seed", "0", "--quiet")  # fmt: skip
    data = json.loads(outcome.out)
    assert outcome.out.count("\n") == 1 and outcome.err == ""
    assert [data["policy"][key] for key in ("substeps", "nfe", "shift")] == [64, 4, 2.0]
    assert (data["teacher"]["base"], data["data"]["prompts"]) == ("owner/name", str(tmp_path / "prompts.txt"))


def test_a_whole_preset_as_config_still_may_not_ask_for_what_does_nothing(cli, tmp_path):
    data = to_dict(resolve("digits", None, [], {"policy.kind": "dx"}))
    data["policy"]["temperature"] = 0.5
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(data))
    outcome = cli("distill", "--teacher", "digits", "--config", str(tmp_path / "c.yaml"), "--print-config")
    assert outcome.code == 2 and "policy.temperature: does nothing to a dx policy" in outcome.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--teacher", "digits", "--print-config", "--dry-run"], "--print-config and --dry-run both print and stop"),
        (["--list-teachers", "--print-config"], "--list-teachers lists and stops, and takes no --print-config"),
        (["--print-config"], "no teacher given"),
        (["--teacher", "digits", "--print-config", "--nfe", "0"], "--nfe 0: must be at least 1"),
    ],
)
def test_what_cannot_be_printed_is_refused(cli, options, complaint):
    outcome = cli("distill", *options)
    assert (outcome.code, outcome.out) == (2, "") and complaint in outcome.err


def test_printing_loads_no_torch(tmp_path):
    program = (
        "import sys; from piflow_cli.app import main\n"
        "for _ in range(2):\n"
        "    code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    )
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(to_dict(resolve("digits", None, [], {"policy.kind": "dx"}))))
    command = [sys.executable, "-c", program, "distill", "--teacher", "digits", "--config", str(path), "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
