"""cuDNN's attention, whose backward pass fails on some GPUs, is asked for where no gradient is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from zoo import ZOO, zoo_preset

from piflow_cli.console import SILENT
from piflow_cli.training.loop import train_step
from piflow_cli.training.opening import open_session


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_student_is_trained_without_cudnn_and_the_teacher_asked_with_it(
    tmp_path: Path, monkeypatch, text_encoders, other_precision, checkpointing: bool
) -> None:
    (tmp_path / "prompts.txt").write_text("a\n")
    told = {
        "data__prompts": str(tmp_path / "prompts.txt"),
        "data__resolution": 64,
        "data__cache": str(tmp_path / "cache"),
        "optimisation__gradient_checkpointing": checkpointing,
    }
    _, preset = zoo_preset(ZOO["flux"], tmp_path, **told)
    session = open_session(preset, tmp_path / "run", "cpu", SILENT)
    seen, whole = set(), torch.nn.functional.scaled_dot_product_attention

    def attention(*given, **named):
        seen.add((torch.is_grad_enabled(), torch.backends.cuda.cudnn_sdp_enabled()))
        return whole(*given, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    train_step(session)
    assert seen == {(True, False), (False, True)}
    assert torch.backends.cuda.cudnn_sdp_enabled()
