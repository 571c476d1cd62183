"""Variables of accelerate's own: without effect on what is trained, and there again afterwards."""

from __future__ import annotations

import os

import pytest
from accelerate.state import AcceleratorState, GradientState
from run_rows import course_of

from piflow_cli.system.processes import environment

VARIABLES = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_GRADIENT_CLIPPING": "0.001",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_DOWNCAST_BF16": "true",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "ACCELERATE_USE_CPU": "false",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_CPU_AFFINITY": "1",
    "ACCELERATE_DEBUG_MODE": "1",
    "ACCELERATE_OF_A_VERSION_TO_COME": "x",
}


@pytest.fixture
def fresh(monkeypatch):
    """accelerate keeps what it has read for good."""

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield reset
    reset()


def test_variables_of_accelerate_have_no_effect(cli, tiny_teacher, tmp_path, monkeypatch, fresh) -> None:
    arguments = [
        "distill",
        "--teacher",
        str(tiny_teacher),
        "--iterations",
        "3",
        "--quiet",
        "--set",
        "optimisation.device_batch_size=4",
    ]
    assert cli(*arguments, "--output", str(tmp_path / "plain")).code == 0
    fresh()
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert cli(*arguments, "--output", str(tmp_path / "set")).code == 0
    assert dict(os.environ) == before
    assert course_of(tmp_path / "plain") == course_of(tmp_path / "set")


def test_an_environment_comes_back_as_it_was(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_ONE", "1")
    monkeypatch.setenv("OTHER", "2")
    monkeypatch.delenv("NEW", raising=False)
    before = dict(os.environ)
    with pytest.raises(RuntimeError), environment({"OTHER": "3", "NEW": "4"}, without="ACCELERATE_"):
        assert "ACCELERATE_ONE" not in os.environ and (os.environ["OTHER"], os.environ["NEW"]) == ("3", "4")
        # What a library sets on its way goes too.
        os.environ["ACCELERATE_TWO"] = "5"
        raise RuntimeError
    assert dict(os.environ) == before
