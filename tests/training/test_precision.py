"""`optimisation.precision: fp32` on teachers whose weights and texts have fewer
bits: the arithmetic is float32 nevertheless."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_presets import texts
from tiny_vae import tiny_vae
from zoo import ZOO, Row, every_family, zoo_preset

from piflow_cli.console import Console
from piflow_cli.presets.resolve import resolve
from piflow_cli.teachers.stock_encoders import StockEncoders
from piflow_cli.training.loop import Session, _backward, train_step
from piflow_cli.training.opening import open_session
from piflow_cli.training.rows import take_pending
from piflow_cli.training.segments import SegmentLosses
from piflow_cli.training.timing import StepClock

pytestmark = pytest.mark.usefixtures("other_precision")


@pytest.fixture
def real_texts(text_encoders, monkeypatch) -> None:
    """Texts in bfloat16, as real encoders give them."""
    encode = StockEncoders.encode_text

    def in_bfloat16(self, texts):
        return [
            {name: value.bfloat16() if value.is_floating_point() else value for name, value in text.items()}
            for text in encode(self, texts)
        ]

    monkeypatch.setattr(StockEncoders, "encode_text", in_bfloat16)


def session_of(row: Row, folder: Path, precision: str, *settings: str) -> Session:
    folder.mkdir()
    (folder / "prompts.txt").write_text("cat\ndog\n")
    path, _ = zoo_preset(row, folder)
    tiny_vae(row.family).save_pretrained(folder / "base" / "vae")
    given = [f"data.cache={folder / 'cache'}", "data.sizes=[[32, 32]]", "adapter.dropout=0.0", *settings]
    preset = resolve(
        path, None, given, {"data.prompts": str(folder / "prompts.txt"), "adapter.base_precision": precision}
    )
    return open_session(preset, folder / "out", "cpu", Console(quiet=True))


def two_steps(session: Session) -> list[dict]:
    train_step(session)
    train_step(session)
    return take_pending(session)


@every_family
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_base_of_fewer_bits_trains_as_one_of_float32_with_the_same_values(
    real_texts, row, precision, tmp_path
) -> None:
    narrow, wide = session_of(row, tmp_path / "narrow", precision), session_of(row, tmp_path / "wide", "fp32")
    base = narrow.student.model.base
    # U-Nets have no linear layer that stays in 16 bits, and their convolutions are widened for good.
    stored = torch.float8_e4m3fn if (row.component, precision) == ("unet", "fp8") else torch.bfloat16
    assert stored in {value.dtype for value in base.parameters()}
    assert (torch.float8_e4m3fn in {value.dtype for value in base.parameters()}) == (precision == "fp8")
    wide.student.model.base.load_state_dict({name: value.float() for name, value in base.state_dict().items()})
    for one, other in zip(two_steps(narrow), two_steps(wide), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5) and not one["skipped"]
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-5)
    for one, other in zip(narrow.student.model.parameters(), wide.student.model.parameters(), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    # What the layers store is as narrow as it was.
    assert stored in {value.dtype for value in base.parameters()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_a_run_in_float32_trains_to_its_end_with_pictures(cli, real_texts, precision, tmp_path) -> None:
    path, _ = zoo_preset(ZOO["flux"], tmp_path)
    tiny_vae("flux").save_pretrained(tmp_path / "base" / "vae")
    options = texts(tmp_path, "cat", "dog")
    options += ["--base-precision", precision, "--iterations", "2", "--set", "output.preview_every=2"]
    outcome = cli("distill", "--teacher", str(path), *options, "--quiet", "--output", str(tmp_path / "out"))
    assert (outcome.code, outcome.err) == (0, "")
    assert (tmp_path / "out" / "previews" / "0000002.png").is_file() and (tmp_path / "out" / "samples.png").is_file()


@every_family
def test_adapters_under_autocast_read_what_peft_would_widen_before_them(row: Row, text_encoders, tmp_path) -> None:
    """bfloat16 → float32 → bfloat16 is no rounding: gradients are the same, bit for bit."""
    session = session_of(row, tmp_path / "run", "bf16", "optimisation.precision=bf16")
    layers = session.student.model.shared.tuned
    assert not any(layer.cast_input_dtype_enabled for layer in layers)
    found = gradients(session)
    for layer in layers:
        layer.cast_input_dtype_enabled = True
    for name, value in gradients(session).items():
        assert torch.equal(value, found[name]), name


def gradients(session: Session) -> dict[str, torch.Tensor]:
    session.optimizer.zero_grad()
    session.clock = StepClock(session.accelerator.device)
    _backward(session, 0, SegmentLosses(session.config.grid))
    return {name: value.grad.clone() for name, value in session.student.model.named_parameters()}
