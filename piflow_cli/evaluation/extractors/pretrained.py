"""Networks that transformers reads, found by path or Hub id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import PiflowError, RunError, UsageError, first_line
from ...weights.locate import locate
from ...weights.pickled import read_pickled
from ...weights.stored import INDEX_SUFFIX, shards_of

CONFIG = "config.json"
WEIGHTS = "model*.safetensors*"
# Names of pickled weights, for repositories without newer files, as that of CLIP ViT-L/14@336.
PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin", f"pytorch_model.bin{INDEX_SUFFIX}")
AGAIN = "copy or download them again"


def model_folder(source: str, kind: str, option: str, also: Sequence[str] = ()) -> Path:
    """The folder of a model of the type ``kind`` (in its config.json); the Hub is asked only for what is needed.

    Args:
        source: a folder that transformers can read, or a Hub id.
        option: what hints say to name another model with.
        also: patterns of files that are needed besides configuration and weights.

    Raises:
        UsageError: there is no such folder or repository, or it holds another kind of model.
        RunError: the Hub cannot be reached or denies access.
    """
    from transformers import AutoConfig

    folder = locate(source, only=(CONFIG, WEIGHTS, *also), option=option)
    if not any(folder.glob(WEIGHTS)):
        folder = locate(source, only=(CONFIG, *PICKLED, *also), option=option)
    try:
        found = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    except (OSError, ValueError, KeyError):
        found = None
    if found != kind:
        held = "no model that transformers reads" if found is None else f"a model of the type {found}, not {kind}"
        raise UsageError(f"{source} holds {held}", f"name a {kind} model by folder or Hub id: {option}")
    return folder


def load_network(kind: Any, folder: Path, device: torch.device) -> Any:
    """The network of the transformers class ``kind`` in ``folder``, float32, for inference; no pickle's code is run.

    Raises RunError where weights are missing or damaged: missing ones would be random, and their numbers look like any.
    """
    options = {"dtype": torch.float32, "output_loading_info": True}
    try:
        if any(folder.glob(WEIGHTS)):
            network, found = kind.from_pretrained(folder, use_safetensors=True, **options)
        else:
            # transformers would unpickle the file by itself; we read tensors alone.
            config, tensors = kind.config_class.from_pretrained(folder), _pickled(folder)
            network, found = kind.from_pretrained(None, config=config, state_dict=tensors, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable("weights", folder, error) from error
    if found["missing_keys"]:
        raise RunError(f"the weights in {folder} lack {sorted(found['missing_keys'])[0]}", AGAIN)
    return network.eval().requires_grad_(False).to(device)


def load_processor(kind: Any, folder: Path) -> Any:
    """What prepares pictures and texts for the network in ``folder``, of the transformers class ``kind``.

    Raises RunError where its files are missing or damaged.
    """
    try:
        return kind.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable("tokenizer and the image processor", folder, error) from error


def _unreadable(what: str, folder: Path, error: Exception) -> RunError:
    return RunError(f"the {what} in {folder} cannot be read: {first_line(error)}", AGAIN)


def _pickled(folder: Path) -> dict[str, Tensor]:
    """The tensors of the pickled checkpoint in ``folder``, or of its shards."""
    found = next((folder / name for name in (PICKLED[0], PICKLED[-1]) if (folder / name).is_file()), None)
    if found is None:
        raise RunError(f"the weights in {folder} cannot be read: there are none", AGAIN)
    tensors: dict[str, Tensor] = {}
    for file in shards_of(found):
        try:
            tensors |= read_pickled(file)
        except PiflowError as error:
            raise RunError(f"{file}: {error.message}", "name another model, or one saved as safetensors") from error
    return tensors
