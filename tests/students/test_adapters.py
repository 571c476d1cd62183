"""Students on disk: the published layout, round trips, and files that do not fit."""

import json
from pathlib import Path

import pytest
import torch
from adapter_files import WEIGHTS, rewrite
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tiny_students import facts, tiny_dit, tiny_student, velocity

from piflow_cli.errors import PiflowError, RunError, UsageError
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.open import open_student
from piflow_cli.students.student import student_of
from piflow_cli.teachers import family_of


@pytest.fixture
def saved(tmp_path) -> Path:
    save_adapter(tiny_student(), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("policy", ["gm", "dx", "dx-poly", "momentum"])
def test_a_saved_student_comes_back_as_it_was(policy: str, tmp_path) -> None:
    student = tiny_student(policy)
    save_adapter(student, tmp_path / "adapter")
    again = open_student(tmp_path / "adapter")
    assert again.facts == student.facts
    torch.testing.assert_close(velocity(again), velocity(student), rtol=0, atol=0)


@pytest.mark.parametrize("policy", ["gm", "dx", "dx-poly", "momentum"])
def test_files_are_laid_out_like_published_ones(policy: str, tmp_path) -> None:
    save_adapter(tiny_student(policy), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    with safe_open(tmp_path / "adapter" / WEIGHTS, "pt") as file:
        declared = json.loads(file.metadata()["policy_config"])
        names = set(file.keys())
    head = {name for name in names if name.startswith("proj_out_") and not name.startswith("proj_out_1.")}
    if policy == "gm":
        assert declared == {"type": "GMFlow"}
        assert (config["_class_name"], config["num_gaussians"], config["logweights_channels"]) == ("GMDiT", 3, 4)
        assert (config["constant_logstd"], config["logstd_inner_dim"], config["gm_num_logstd_layers"]) == (None, 8, 2)
        layers = ("means", "logweights", "logstds.1", "logstds.3")
        assert head == {f"proj_out_{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    elif policy == "momentum":
        assert declared == {"type": "ArcFlow"}
        assert (config["_class_name"], config["num_gaussians"], config["logweights_channels"]) == ("ArcDiT", 3, 4)
        assert head == {
            f"proj_out_{layer}.{part}" for layer in ("means", "logweights", "loggamma") for part in ("weight", "bias")
        }
    else:
        mode = {"mode": "polynomial"} if policy == "dx-poly" else {}
        assert declared == {"type": "DX", "segment_size": 1 / 1.5, "shift": 3.2, **mode}
        assert (config["_class_name"], config["out_channels"]) == ("DiT", 3 * 2)
        assert head == {"proj_out_2.weight", "proj_out_2.bias"}


def test_rows_of_the_means_run_over_position_then_component_then_channel() -> None:
    """The ImageNet layout: at initialisation, row (position, k, c) is the teacher's row (position, c)."""
    teacher = tiny_dit()
    student = student_of(teacher, family_of("dit"), facts(), seed=0)
    means = student.model.proj_out_2.means.weight.unflatten(0, (4, 3, 2))
    torch.testing.assert_close(means[2, 1, 1], teacher.proj_out_2.weight[2 * 2 + 1])


@given(
    st.integers(1, 9), st.floats(0.01, 30), st.floats(0.01, 1), st.sampled_from(["auto", "0.3"]), st.integers(0, 10**9)
)
def test_facts_survive_the_metadata(nfe: int, shift: float, final: float, temperature: str, iterations: int) -> None:
    values = vars(facts()) | {
        "nfe": nfe,
        "shift": shift,
        "final_step_scale": final,
        "temperature": temperature,
        "iterations": iterations,
    }
    told = StudentFacts(**values)
    assert StudentFacts.from_metadata(told.to_metadata()) == told


def test_faults_of_the_metadata_come_all_at_once() -> None:
    metadata = facts().to_metadata() | {"piflow.nfe": "two"}
    del metadata["piflow.shift"]
    with pytest.raises(RunError, match="piflow.nfe is 'two'; piflow.shift is missing"):
        StudentFacts.from_metadata(metadata)


def no_means(tensors, metadata, config) -> None:
    del tensors["proj_out_means.weight"]


def no_head(tensors, metadata, config) -> None:
    for name in [name for name in tensors if name.startswith(("proj_out_means", "proj_out_log"))]:
        del tensors[name]


def wrong_components(tensors, metadata, config) -> None:
    metadata["piflow.components"] = "4"
    config["num_gaussians"] = 4


def not_a_number(tensors, metadata, config) -> None:
    tensors["proj_out_means.bias"][0] = float("nan")


def other_components(tensors, metadata, config) -> None:
    metadata["piflow.components"] = "4"


def other_policy(tensors, metadata, config) -> None:
    metadata["piflow.policy"] = "arcflow"


def other_family(tensors, metadata, config) -> None:
    metadata["piflow.family"] = "unet"


def no_facts(tensors, metadata, config) -> None:
    for name in list(metadata):
        del metadata[name]
    metadata["format"] = "pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_means, "proj_out_means.weight is missing"),
        (no_head, "holds no policy head: it is the weights of a teacher, not a student"),
        (wrong_components, "its head has 3 components, and it is said to have 4"),
        (not_a_number, "is damaged: proj_out_means.bias has values that are not finite"),
        (other_components, "is of 4 components, and config.json says 3"),
        (other_policy, "policy of unknown type 'arcflow'"),
        (other_family, "unknown model family 'unet'"),
        (no_facts, "does not say how to sample it"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(saved, change, message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(PiflowError, match=message) as caught:
        open_student(saved)
    assert caught.value.hint


@pytest.mark.parametrize("keep", [0.5, 0.999, 0.0])
def test_a_truncated_file_is_named(saved, keep: float) -> None:
    path = saved / WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(RunError, match="corrupt or cut short") as caught:
        open_student(saved)
    assert str(path) in caught.value.message


def test_a_config_that_is_none_is_refused(saved) -> None:
    (saved / "config.json").write_text("[]")
    # Checksums would notice it before.
    with pytest.raises(RunError, match="is not the config of a model"):
        open_student(saved, changed=True)


def test_a_folder_without_a_student_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="is not a student: there are no weights in it"):
        open_student(tmp_path)


def test_a_failed_save_leaves_the_earlier_student_whole(saved, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("piflow_cli.students.adapters.save_file", full)
    with pytest.raises(OSError):
        save_adapter(tiny_student("dx"), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["adapter"]
