"""Networks that transformers reads, found by path or Hub id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError
from ...teachers.locate import hub_id, locate

WEIGHTS = ("config.json", "model*.safetensors*")


def model_folder(source: str, kind: str, also: Sequence[str] = ()) -> Path:
    """The folder of a model of the type ``kind`` (as its config.json says); of a repository only what is needed is fetched.

    Args:
        source: a folder that transformers can read, or a Hub id.
        also: patterns of files that are needed besides configuration and weights.

    Raises:
        UsageError: there is no such folder or repository, or it holds another kind of model.
        RunError: the Hub cannot be reached or denies access.
    """
    from transformers import AutoConfig

    if hub_id(source) is None and not Path(source).is_dir():
        raise UsageError(f"there is no folder {source} that could hold a {kind} model", "name a folder or a Hub id, OWNER/NAME")
    folder = locate(source, only=(*WEIGHTS, *also))
    try:
        found = AutoConfig.from_pretrained(folder).model_type
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{source} holds no model that transformers reads", f"name a {kind} model by folder or Hub id") from error
    if found != kind:
        raise UsageError(f"{source} holds a model of the type {found}, not {kind}", f"name a {kind} model by folder or Hub id")
    return folder
