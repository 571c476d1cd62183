"""Models of diffusers and transformers, read whole: missing, unknown or spoiled weights are errors."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.tensors import all_finite
from ..errors import RunError, UsageError
from ..weights.stored import INDEX_SUFFIX, opened_tensors, shards_of, weight_map
from ..wording import few

# Names of weights, in the order in which from_pretrained looks for them.
NAMES = tuple(f"{stem}.safetensors{end}" for stem in ("diffusion_pytorch_model", "model") for end in ("", INDEX_SUFFIX))
MEND = "copy or download it again, or name another: --base PATH"


def load_model(kind: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """The model of the diffusers class ``kind`` in ``folder``, in evaluation mode.

    It is on the CPU unless ``options`` quantise it.

    Raises:
        UsageError: there are no weights in safetensors files.
        RunError: tensors are missing, unknown, of other shapes or not finite.
    """
    model, found = _read(kind, folder, dtype, **options)
    _refuse(folder, kind, "lacks", found["missing_keys"])
    _refuse(folder, kind, "holds what is unknown to it:", found["unexpected_keys"])
    # Quantised weights no longer show what they were made of.
    values = _stored(folder) if "quantization_config" in options else model.state_dict().items()
    _refuse_not_finite(folder, values)
    return model.eval()


def load_text_encoder(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """The text encoder of the transformers class ``kind`` in ``folder``; errors are those of :func:`load_model`.

    The head of a whole model, of which the class is but a part, may lie in the file too.
    """
    model, found = _read(kind, folder, dtype)
    own = {name for name, _ in model.named_children()}
    inside = [
        name
        for name in found["unexpected_keys"]
        if name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] in own
    ]
    _refuse(folder, kind, "lacks", found["missing_keys"])
    _refuse(folder, kind, "holds what is unknown to it:", inside)
    _refuse_not_finite(folder, model.state_dict().items())
    return model.eval()


def weights_in(folder: Path) -> Path:
    """The file of weights, or the index of its shards, in a model's folder; raises UsageError where there is none."""
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if not found:
        raise UsageError(f"there are no weights in {folder}", "name a folder with .safetensors files: --base PATH")
    return found[0]


def _read(
    kind: Any, folder: Path, dtype: torch.dtype, **options: Any
) -> tuple[nn.Module, Mapping[str, Collection[str]]]:
    file = weights_in(folder)
    _refuse_other_shards(folder, kind)
    try:
        # Some classes draw values before they read them.
        untouched = torch.random.fork_rng(devices=())
        with untouched, _quiet("diffusers"), _quiet(kind.__module__.partition(".")[0]):
            return kind.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
    except (ValueError, RuntimeError) as error:
        if "shape" not in str(error):
            raise
        # diffusers and transformers differ in the rest of what they say.
        said = next(line for line in str(error).splitlines() if "shape" in line).strip().partition(". If you")[0]
        raise RunError(f"{file} is of another shape than its config.json says: {said}", MEND) from error


def _refuse_other_shards(folder: Path, kind: Any) -> None:
    """Open every shard: the libraries believe the index, and do not say which file is cut short."""
    index, held = weights_in(folder), set()
    for shard in shards_of(index):
        with opened_tensors(shard) as file:
            held.update(file.keys())
    if index.suffix == ".json":
        listed = weight_map(index).keys()
        _refuse(folder, kind, "lists what no shard holds:", listed - held)
        _refuse(folder, kind, "does not list what its shards hold:", held - listed)


def _refuse(folder: Path, kind: Any, what: str, names: Collection[str]) -> None:
    if names:
        raise RunError(f"{weights_in(folder)}, of a {kind.__name__}, {what} {few(sorted(names))}", MEND)


def _refuse_not_finite(folder: Path, values: Collection[tuple[str, Tensor]] | Iterator[tuple[str, Tensor]]) -> None:
    """Raise RunError for the first tensors that hold NaN or infinity, with the file that has the first of them."""
    wrong = [name for name, value in values if not all_finite(value)]
    if wrong:
        raise RunError(
            f"{_file_of(weights_in(folder), wrong[0])} holds values that are not finite in {few(wrong)}", MEND
        )


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for shard in shards_of(weights_in(folder)):
        with opened_tensors(shard) as file:
            for name in file.keys():
                yield name, file.get_tensor(name)


def _file_of(weights: Path, name: str) -> Path:
    """The shard of the tensor ``name``; the index where the library gave the tensor another name."""
    if weights.suffix != ".json":
        return weights
    shard = weight_map(weights).get(name)
    return weights if shard is None else weights.parent / shard


@contextmanager
def _quiet(library: str) -> Generator[None]:
    """Hide ``library``'s reports of missing weights and its progress bars: one line of ours says it."""
    if library not in ("diffusers", "transformers"):
        yield
        return
    logging = importlib.import_module(f"{library}.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
