"""Released ImageNet checkpoints as folders of our DiT: key maps, exact changes of convention, and a cache.

Three releases are read: the teachers of pi-Flow (arXiv 2510.14974), which have our names; SiT (arXiv
2401.08740), which is fed 1 - sigma and predicts x_0 - eps; and REPA (arXiv 2410.06940), which has SiT's names
but is fed sigma and predicts eps - x_0.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.tensors import all_finite
from ..errors import PiflowError, RunError, UsageError
from ..system.files import NAME_CACHE, cache_folder, replacing_folder
from ..system.locking import waiting_for
from ..weights.cache_kinds import TEACHERS
from ..weights.digests import is_whole, write_manifest
from ..weights.stored import read_checkpoint
from ..wording import few
from .dit_network import DiT, position_table, sinusoid_frequencies

Conversion = Callable[[Mapping[str, Tensor], Mapping[str, Any]], tuple[dict[str, Any], dict[str, Tensor]]]
LOGGER = logging.getLogger("piflow.teachers")
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
CONVERTER = 1  # part of a cached teacher's key, to be raised with every change of the conversion
KNOWN_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width: the sizes S, B, L and XL of DiT and SiT
IMAGENET_LATENT = 32
STATE_IT = "name a folder with a config.json that states them; distill: --set teacher.config=DIR"

_SIT_NAMES = (
    (r"x_embedder\.proj\.", "pos_embed.proj."),
    (r"t_embedder\.mlp\.0\.", "emb.timestep_embedder.linear_1."),
    (r"t_embedder\.mlp\.2\.", "emb.timestep_embedder.linear_2."),
    (r"y_embedder\.embedding_table\.", "emb.class_embedder.embedding_table."),
    (r"blocks\.(\d+)\.adaLN_modulation\.1\.", r"transformer_blocks.\1.norm1.linear."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"transformer_blocks.\1.attn1.to_out.0."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"transformer_blocks.\1.ff.net.0.proj."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"transformer_blocks.\1.ff.net.2."),
    (r"final_layer\.adaLN_modulation\.1\.", "proj_out_1."),
    (r"final_layer\.linear\.", "proj_out_2."),
)
_SIT_QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)")


def converted(
    path: Path, given: Mapping[str, Any], conversion: Conversion | None = None, kind: str = DiT.__name__
) -> Path:
    """The folder of our DiT made of the checkpoint ``path``, from the user's cache where it was made before.

    Args:
        path: .pth, .pt, .ckpt, .bin or .safetensors file.
        given: fields of the DiT's config, for what the tensors do not tell: `time_scale`, heads of an unusual width.
        conversion: from the checkpoint's tensors and ``given`` to config and tensors; None: :func:`convert`.
        kind: the class of the model in the folder.

    Raises:
        RunError: the file is damaged or holds more than tensors.
        UsageError: it is another model, lacks or adds tensors, or contradicts ``given``.
    """
    real = path.resolve()
    status = real.stat()
    identity = [CONVERTER, str(real), status.st_size, status.st_mtime_ns, sorted(given.items())]
    if conversion is not None:
        identity.append(kind)
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    folder = cache_folder(None, NAME_CACHE) / TEACHERS / f"{path.stem}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The processes of one run ask at the same time; the first converts.
    with waiting_for(folder.with_name(f".{folder.name}.lock"), f"it converts {path.name}"):
        if not is_whole(folder):
            if folder.is_dir():
                LOGGER.warning("the converted teacher %s is not as it was made; it is made anew", folder)
            try:
                config, tensors = (convert if conversion is None else conversion)(read_checkpoint(path), given)
            except PiflowError as error:
                named = error.message if error.message.startswith(str(path)) else f"{path}: {error.message}"
                raise type(error)(named, error.hint) from error
            with replacing_folder(folder) as aside:
                (aside / CONFIG).write_text(json.dumps({"_class_name": kind, **config}, indent=2) + "\n")
                save_file(tensors, aside / WEIGHTS, {"format": "pt"})
                write_manifest(aside, (CONFIG, WEIGHTS))
    return folder


def convert(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and float32 tensors of the DiT that gives u = eps - x_0 from sigma, equal to the checkpoint's model.

    Raises UsageError naming the first faults where the tensors are not those of a class-conditional DiT.
    """
    if "x_embedder.proj.weight" in tensors:
        if given.get("time_scale", 1.0) != 1:
            raise UsageError(
                f"time_scale is 1 for SiT and REPA, not {given['time_scale']:g}",
                "distil it with --teacher imagenet-repa",
            )
        found = _with_our_names(tensors)
        config = architecture(found, {"time_scale": 1.0, **_input_size(tensors), **given})
        refuse_faults(found, lambda: DiT(**config))
        _refuse_other_positions(tensors, config)
        # Only REPA trains projectors, and its time runs from data to noise as ours does.
        if not any(name.startswith("projectors.") for name in tensors):
            found = _from_reversed_time(found)
    elif "pos_embed.proj.weight" in tensors:
        found = dict(tensors)
        config = architecture(found, given)
        refuse_faults(found, lambda: DiT(**config))
    else:
        raise UsageError(f"no class-conditional DiT or SiT: it starts with {few(tensors)}", "name another: --base PATH")
    return config, {name: value.float().contiguous() for name, value in found.items()}


def architecture(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """The DiT's config, read off tensors with our names; ``given`` adds what they do not show.

    Raises UsageError for what ``given`` contradicts or lacks.
    """
    try:
        width, channels, patch, _ = tensors["pos_embed.proj.weight"].shape
        classes = tensors["emb.class_embedder.embedding_table.weight"].shape[0] - 1
        inner = tensors["transformer_blocks.0.ff.net.0.proj.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise UsageError(
            "no class-conditional DiT: its embeddings or first block are missing", "name another: --base PATH"
        ) from error
    blocks = {match[1] for name in tensors if (match := re.match(r"transformer_blocks\.(\d+)\.", name))}
    shown = {
        "patch_size": patch,
        "in_channels": channels,
        "num_layers": len(blocks),
        "num_classes": classes,
        "mlp_ratio": inner / width,
    }
    told = {"sample_size": IMAGENET_LATENT, **given}
    if "num_attention_heads" not in told and width in KNOWN_HEADS:
        told["num_attention_heads"] = KNOWN_HEADS[width]
    lacking = [name for name in ("num_attention_heads", "time_scale") if name not in told]
    if lacking:
        raise UsageError(f"the tensors do not tell {' and '.join(lacking)}", STATE_IT)
    shown["attention_head_dim"] = width // told["num_attention_heads"]
    wrong = [
        f"{name} is {shown[name]}, not {value}" for name, value in given.items() if shown.get(name, value) != value
    ]
    if wrong:
        raise UsageError(f"another architecture than the preset's: {'; '.join(wrong)}", "name another: --base PATH")
    return {**told, **shown}


def _with_our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a SiT under our names, queries, keys and values apart, without those of the variance."""
    found: dict[str, Tensor] = {}
    channels = tensors["x_embedder.proj.weight"].shape[1]
    positions = math.prod(tensors["x_embedder.proj.weight"].shape[2:])
    for name, value in tensors.items():
        if name == "pos_embed" or name.startswith("projectors."):
            continue
        if match := _SIT_QKV.fullmatch(name):
            for part, rows in zip("qkv", value.chunk(3)):
                found[f"transformer_blocks.{match[1]}.attn1.to_{part}.{match[2]}"] = rows
            continue
        if name.startswith("final_layer.linear.") and value.shape[0] == 2 * positions * channels:
            # Rows are (ph, pw, channel); the second half of the channels is a variance, which the velocity leaves out.
            value = value.unflatten(0, (positions, -1))[:, :channels].flatten(0, 1)
        found[_renamed(name)] = value
    return found


def _renamed(name: str) -> str:
    for pattern, replacement in _SIT_NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def _from_reversed_time(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that give u = eps - x_0 from sigma, of weights that give x_0 - eps from 1 - sigma.

    The sign goes into the output layer. The time goes into the first layer of its embedding, which sees cos(f t) and
    sin(f t): with t = 1 - sigma these are cos f cos(f sigma) + sin f sin(f sigma) and sin f cos(f sigma) - cos f sin(f
    sigma).
    """
    found = dict(tensors)
    for part in ("weight", "bias"):
        found[f"proj_out_2.{part}"] = -tensors[f"proj_out_2.{part}"]
    name = "emb.timestep_embedder.linear_1.weight"
    cosines, sines = tensors[name].double().chunk(2, dim=1)
    angle = sinusoid_frequencies().double()
    cos, sin = angle.cos(), angle.sin()
    found[name] = torch.cat([cosines * cos + sines * sin, cosines * sin - sines * cos], dim=1)
    return found


def _input_size(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """`sample_size` of a SiT, by the number of patches that its saved positions count."""
    if "pos_embed" not in tensors:
        return {}
    return {"sample_size": math.isqrt(tensors["pos_embed"].shape[-2]) * tensors["x_embedder.proj.weight"].shape[2]}


def _refuse_other_positions(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Raise UsageError unless the saved position embedding is SiT's fixed table."""
    if (positions := tensors.get("pos_embed")) is None:
        return
    expected = position_table(config["sample_size"] // config["patch_size"], positions.shape[-1])
    # Computed in single precision there.
    if positions.shape != expected.shape or not torch.allclose(positions.float(), expected, atol=1e-3):
        raise UsageError(
            "its pos_embed is not SiT's table of sines and cosines for this input size", "name another: --base PATH"
        )


def refuse_faults(tensors: Mapping[str, Tensor], model: Callable[[], nn.Module]) -> None:
    """Raise UsageError where ``tensors`` are not those of ``model``, RunError where they are not finite."""
    with torch.device("meta"):
        expected = {name: value.shape for name, value in model().state_dict().items()}
    refuse_others(tensors, expected, "class-conditional DiT")


def refuse_others(tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], what: str) -> None:
    """As :func:`refuse_faults`, of a model by the shapes that are ``expected``; ``what``: it in words."""
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in expected]
    for name in expected.keys() & tensors.keys():
        if tensors[name].shape != expected[name]:
            faults.append(f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name])}")
    if faults:
        raise UsageError(f"no {what}: {few(faults, separator='; ')}", "name another: --base PATH")
    if wrong := [name for name, value in tensors.items() if not all_finite(value)]:
        raise RunError(f"values that are not finite in {few(wrong)}", "download it again, or name another: --base PATH")
