"""What the checks say of downloads that are there or missing, and of the Hub's answers."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from piflow_cli.doctor import downloads


def test_weights_that_are_missing_come_with_a_command(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: None)
    found = [downloads.inception(), downloads.alexnet(), downloads.clip()]
    assert [one.state for one in found] == ["missing"] * 3 and all(one.hint for one in found)
    place = _places()[-1]
    place.parent.mkdir(parents=True)
    place.touch()
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: "/a/config.json")
    assert (downloads.inception().state, downloads.clip().state) == ("works", "works")


def _places() -> list[Path]:
    from piflow_cli.evaluation.extractors.inception_weights import weight_places

    return weight_places(None)


class GatedRepoError(Exception):
    """As the Hub's client raises it, with the answer of the Hub."""

    response = SimpleNamespace(status_code=403)


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    names: list[str] = []
    monkeypatch.setattr(huggingface_hub, "auth_check", names.append)
    return names


def test_every_base_on_the_hub_is_asked_for(asked: list[str]) -> None:
    found = downloads.gated()
    assert found.state == "works" and "black-forest-labs/FLUX.1-dev" in asked
    assert set(asked) == set(found.facts["bases"]) and all(found.facts["bases"].values())


def test_a_base_that_is_refused_is_named_with_what_to_do(asked: list[str], monkeypatch) -> None:
    def check(base: str) -> None:
        if base.endswith("FLUX.1-dev"):
            raise GatedRepoError

    monkeypatch.setattr(huggingface_hub, "auth_check", check)
    found = downloads.gated()
    assert found.state == "missing" and "FLUX.1-dev: the model is gated" in found.says and "licence" in found.hint
    assert [base for base, open in found.facts["bases"].items() if not open] == ["black-forest-labs/FLUX.1-dev"]


def test_without_a_token_or_an_answer_nothing_is_claimed(asked: list[str], monkeypatch) -> None:
    monkeypatch.setattr(downloads, "SECONDS", 0.05)
    monkeypatch.setattr(huggingface_hub, "auth_check", lambda base: time.sleep(0.5))
    assert "not answered" in downloads.gated().says
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert downloads.gated().state == "missing" and asked == []
