"""Refusals that the command line comes before, with another hint: made in Python, and mended as the hint says."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hint_faults import FAULTS
from hint_programs import do, outside
from hint_refusals import REFUSALS, Refusal

from piflow_cli.core import kernels
from piflow_cli.errors import PiflowError

TRITON = "rollouts on cuda: reference loop, many times slower (Triton is not installed: pip install triton)"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.module}: {refusal.hint}")
def test_a_refusal_that_only_python_meets_has_its_hint(tmp_path, refusal: Refusal) -> None:
    with pytest.raises(PiflowError) as caught:
        refusal.act(tmp_path)
    told = caught.value.hint if "--save-images" not in refusal.hint else caught.value.message
    assert refusal.hint.replace("{}", "") in str(told)
    refusal.mended(tmp_path, str(told))


def test_without_triton_the_reference_computes_until_it_is_installed(caplog: Any, monkeypatch: Any) -> None:
    pytest.importorskip("triton")
    kernels._chosen.cache_clear()
    with caplog.at_level(logging.WARNING, kernels.LOGGER.name), FAULTS["hidden"]("triton"):
        assert kernels.backend("cuda") is None
    words = outside(caplog.messages[0])
    assert caplog.messages[0] == TRITON and words is not None
    do(words, "triton", ())
    # The trial launch, which needs a GPU.
    monkeypatch.setattr("piflow_cli.core.kernels.triton_trial.product", lambda device: 6.0)
    kernels._chosen.cache_clear()
    assert kernels.backend("cuda").__name__.endswith("gm_triton")
