"""Adapters without checksums whose files contradict each other: each contradiction is
refused in one line, and what nobody knows is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_files import rewrite, saved
from tiny_students import facts, tiny_student, velocity
from zoo import ZOO

from piflow_cli.errors import RunError
from piflow_cli.presets.resolve import load
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.open import find_student, open_student
from piflow_cli.students.stated import METADATA_PREFIX
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of
from piflow_cli.weights.locate import locate

Change = Callable[[dict, dict, dict], None]


def in_config(**values: object) -> Change:
    return lambda tensors, metadata, config: config.update(values)


def in_policy(**values: object) -> Change:
    def change(tensors, metadata, config) -> None:
        metadata["policy_config"] = json.dumps({**json.loads(metadata["policy_config"]), **values})

    return change


def policy_text(text: str) -> Change:
    return lambda tensors, metadata, config: metadata.update(policy_config=text)


def like_published(tensors, metadata, config) -> None:
    for name in [name for name in metadata if name.startswith(METADATA_PREFIX)]:
        del metadata[name]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> dict[str, Path]:
    """Students with adapters of three policies, and the base that they share."""
    folders = {policy: tmp_path_factory.mktemp(policy) for policy in ("gm", "dx", "momentum")}
    for policy, folder in folders.items():
        saved(ZOO["flux"], folder, policy)
    return folders


def opened(zoo: dict[str, Path], policy: str, folder: Path, *changes: Change) -> tuple[StudentFacts, list[str]]:
    """The facts of a student, and what is said while it is read from a copy with ``changes``."""
    copy, lines = folder / "copy", []
    copy.mkdir()
    for file in (zoo[policy] / "adapter").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    for change in changes:
        rewrite(copy, change)
    return open_student(copy, base=str(zoo[policy] / "base"), say=lines.append).facts, lines


GARBAGE = ["banana", -7, 0.5, True, None, [3], {}]
OF_GM = {"logweights_channels": 4, "logstd_inner_dim": 8, "gm_num_logstd_layers": 2, "constant_logstd": None}


@pytest.mark.parametrize("value", GARBAGE, ids=str)
@pytest.mark.parametrize("field", [*OF_GM, "_class_name", "out_channels"])
def test_a_field_of_the_head_that_contradicts_the_tensors_is_refused(zoo, tmp_path, field: str, value: object) -> None:
    if value is None and field in ("constant_logstd", "out_channels"):
        assert opened(zoo, "gm", tmp_path, in_config(**{field: value}))[1] == []
        return
    with pytest.raises(RunError) as caught:
        opened(zoo, "gm", tmp_path, in_config(**{field: value}))
    assert caught.value.exit_code == 1 and caught.value.hint and "\n" not in caught.value.message
    if field != "_class_name":
        assert f"it says {field} {value!r}" in caught.value.message


def test_a_class_of_another_name_is_refused_by_name(zoo, tmp_path) -> None:
    with pytest.raises(RunError, match=r"it says _class_name 'Foo' \(it is 'GMFluxTransformer2DModel'\)"):
        opened(zoo, "gm", tmp_path, in_config(_class_name="Foo"))


@pytest.mark.parametrize(
    ("policy", "change", "said"),
    [
        ("gm", in_policy(type="DX"), "type 'DX'"),
        ("gm", in_policy(type=7), "type 7"),
        ("gm", in_policy(mode="polynomial"), "mode 'polynomial'"),
        ("gm", in_policy(shift=3.2), "shift 3.2"),
        ("gm", policy_text("[1]"), "no JSON object"),
        ("gm", policy_text("{"), "no JSON object"),
        ("gm", policy_text("[" * 100_000), "no JSON object"),
        ("dx", in_policy(type="GMFlow"), "type 'GMFlow'"),
        ("dx", in_policy(mode="polynomial"), "mode 'polynomial'"),
        ("dx", in_policy(segment_size=0.123), "segment_size 0.123"),
        ("dx", in_policy(segment_size="wide"), "segment_size 'wide'"),
        ("dx", in_policy(segment_size=None), "segment_size None"),
        ("dx", in_policy(shift=True), "shift True"),
        ("momentum", in_policy(type="GMFlow"), "type 'GMFlow'"),
    ],
)
def test_a_policy_config_that_contradicts_the_facts_is_refused(zoo, tmp_path, policy, change, said: str) -> None:
    with pytest.raises(RunError) as caught:
        opened(zoo, policy, tmp_path, change)
    assert said in caught.value.message and "\n" not in caught.value.message and caught.value.hint
    with pytest.raises(RunError):
        find_student(tmp_path / "copy")


def test_fields_of_another_policy_are_refused_where_the_facts_tell_the_policy(zoo, tmp_path) -> None:
    with pytest.raises(RunError, match=r"it says logstd_inner_dim 8 \(it has none\)"):
        opened(zoo, "momentum", tmp_path, in_config(logstd_inner_dim=8))


@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
def test_entries_that_nobody_knows_are_named(zoo, tmp_path, policy: str) -> None:
    found, lines = opened(zoo, policy, tmp_path, in_policy(colour="red", taste=1))
    assert found.policy == policy and len(lines) == 1
    assert lines[0].endswith("its policy_config says colour, taste, which piflow does not know and leaves out")


@pytest.mark.parametrize("policy", ["gm", "dx", "momentum"])
@pytest.mark.parametrize("missing", ["policy_config", "fields", "nothing"])
def test_what_is_not_said_contradicts_nothing(zoo, tmp_path, policy: str, missing: str) -> None:
    def change(tensors, metadata, config) -> None:
        if missing == "policy_config":
            del metadata["policy_config"]
        elif missing == "fields":
            for key in {*OF_GM, "out_channels"} & config.keys() if policy != "dx" else ():
                del config[key]

    assert opened(zoo, policy, tmp_path, change)[1] == []


def test_numbers_that_went_through_other_digits_agree(zoo, tmp_path) -> None:
    def change(tensors, metadata, config) -> None:
        told = json.loads(metadata["policy_config"])
        metadata["policy_config"] = json.dumps({**told, "segment_size": round(told["segment_size"], 7)})

    assert opened(zoo, "dx", tmp_path, change)[1] == []


@pytest.mark.parametrize("field", OF_GM)
def test_a_published_student_whose_head_is_another_is_refused(zoo, tmp_path, field: str) -> None:
    with pytest.raises(RunError, match=field.removesuffix("_inner_dim")):
        opened(zoo, "gm", tmp_path, like_published, in_config(**{field: 5}))


def test_a_published_student_with_fields_that_are_of_no_use_loads_and_they_are_named(zoo, tmp_path) -> None:
    lines = opened(zoo, "momentum", tmp_path, like_published, in_config(gm_num_logstd_layers=2))[1]
    assert any("config.json says gm_num_logstd_layers, which a momentum student" in line for line in lines)


# Networks whose files no base stands beside.


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    preset, family = load("digits"), family_of("dit")
    teacher = family.load(locate(preset.teacher.base))
    save_adapter(
        student_of(teacher, family, StudentFacts.of(preset), seed=0), folder := tmp_path_factory.mktemp("digits") / "a"
    )
    return folder


@pytest.mark.parametrize(
    ("field", "value"), [("time_scale", 500.0), ("time_scale", 1.0), ("num_attention_heads", 2), ("mlp_ratio", 4)]
)
def test_a_network_unlike_the_shipped_teacher_is_refused(digits, tmp_path, field: str, value: object) -> None:
    """Heads and the scale of time are in no tensor; what is equal in value is equal."""
    for file in digits.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rewrite(
        tmp_path,
        lambda tensors, metadata, config: config.update(
            {field: value, "attention_head_dim": 128 // (2 if field == "num_attention_heads" else 4)}
        ),
    )
    if field == "mlp_ratio":
        assert open_student(tmp_path).facts.teacher == "digits"
        return
    with pytest.raises(RunError, match=f"is not that of a student of digits: it says .*{field} {value}"):
        open_student(tmp_path)


@pytest.mark.parametrize("value", [1e-9, 1e9, 1e300])
def test_a_scale_of_time_at_which_no_network_works_is_refused(tmp_path, value: float) -> None:
    save_adapter(tiny_student(), tmp_path / "a")
    rewrite(tmp_path / "a", in_config(time_scale=value))
    with pytest.raises(RunError, match=r"time_scale .* is not from 0.001 to 1e\+06"):
        open_student(tmp_path / "a")


def test_a_scale_of_time_that_nothing_confirms_is_named(tmp_path) -> None:
    """Where the file has no checksums; the student's own file says what it was trained with."""
    lines: list[str] = []
    save_adapter(tiny_student(), tmp_path / "a")
    whole = open_student(tmp_path / "a", say=lines.append)
    assert lines == [] and whole.facts == facts()
    rewrite(tmp_path / "a", in_config(time_scale=50.0))
    other = open_student(tmp_path / "a", say=lines.append)
    assert lines == ["config.json says time_scale 50; released networks have 1 or 1000, and no tensor shows it"]
    assert not torch.allclose(velocity(whole), velocity(other))
