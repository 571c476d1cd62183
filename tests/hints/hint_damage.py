"""Students, bases, runs and data with something wrong with them, for the wrong lines that name them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from fuzz_material import WEIGHTS
from PIL import Image
from safetensors.torch import load_file, save_file
from sit import sit_weights
from tiny_imagenet import tiny_imagenet
from zoo import ZOO, student_of

from piflow_cli.evaluation.extractors.features import FeatureSet
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.presets.resolve import resolve
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.runs import RunFolder
from piflow_cli.system.locking import LOCK_NAME, FolderLock, Holder


def damaged(root: Path, files: Mapping[str, Path], vae: Path, stack: ExitStack) -> dict[str, Path]:
    """Everything in ``root``, by the words that stand for it in braces. ``files``: what is whole. ``vae``: of four
    channels. ``stack``: lets go of what another run holds in the end."""
    return {
        **students(root / "students", files),
        **bases(root / "bases", files),
        **runs(root / "runs", files, stack),
        **data(root / "data"),
        **latents(root / "latents", vae),
    }


def students(root: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    """Students that are in the wrong place, or not as they were saved."""
    adapter = files["run"] / "adapter"
    made = {"loose": copied(adapter, root / "loose"), "flipped": copied(adapter, root / "flipped")}
    weights = made["flipped"] / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    made["two"] = copied(adapter, root / "two")
    shutil.copy(adapter / WEIGHTS, made["two"] / "another.safetensors")
    made["runs"] = root / "runs"
    copied(files["run"], made["runs"] / "one")
    copied(files["run"], made["runs"] / "two")
    large = student_of(ZOO["flux"], ZOO["flux"].build())
    large.facts = replace(large.facts, base=str(files["base"]))
    for name, value in large.model.named_parameters():
        if "lora_A" in name or "proj_out" in name:
            value.data.fill_(1e6)
    made["large"] = root / "large"
    save_adapter(large, made["large"])
    return made


def bases(root: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    """Bases of classes and of texts that no model can be read from."""
    whole, text = files["teacherbase"], files["base"]
    made = {name: copied(whole, root / name) for name in ("torn", "unweighted")}
    tensors = load_file(whole / WEIGHTS)
    save_file(dict(list(tensors.items())[1:]), made["torn"] / WEIGHTS)
    (made["unweighted"] / WEIGHTS).unlink()
    lone = {"alone": tensors, "infinite": {name: torch.full_like(value, torch.inf) for name, value in tensors.items()}}
    lone |= {"headless": {name: value for name, value in tensors.items() if "embedding_table" not in name}}
    for name, content in lone.items():
        made[name] = root / f"{name}.safetensors"
        save_file(content, made[name])
    made["sit"], made["nothing"] = root / "sit.safetensors", root / "nothing.pt"
    save_file(sit_weights(), made["sit"])
    torch.save([1], made["nothing"])
    for name, (part, change) in {
        "coded": ("text_encoder/config.json", lambda config: config | {"auto_map": {"AutoModel": "code.Model"}}),
        "unindexed": ("model_index.json", lambda index: [1]),
        "wider": ("transformer/config.json", lambda config: config | {"num_layers": config["num_layers"] + 1}),
    }.items():
        made[name] = copied(text, root / name)
        rewritten(made[name] / part, change)
    made["without_vae"] = copied(text, root / "without_vae")
    shutil.rmtree(made["without_vae"] / "vae")
    return made


def runs(root: Path, files: Mapping[str, Path], stack: ExitStack) -> dict[str, Path]:
    """Runs that cannot go on, for one reason each."""
    made = {name: copied(files["run"], root / name) for name in ("other_data", "changed", "unreadable", "torn_run")}
    (made["other_data"] / "data.sha256").write_text("0" * 64 + "\n")
    settings = made["changed"] / "run.yaml"
    settings.write_text(settings.read_text().replace("learning_rate: ", "learning_rate: 1"))
    (made["unreadable"] / "run.yaml").write_text("{")
    for record in made["torn_run"].glob("checkpoints/*/state.json"):
        record.write_text("{")
    for name in ("cosine", "cosine2"):
        made[name] = root / name
        made[name].mkdir()
        preset = resolve(files["teacher"], None, ["optimisation.schedule=cosine"], {"optimisation.iterations": 1})
        RunFolder(made[name]).write_settings(preset)
    made["held"], made["left"] = root / "held", root / "left"
    stack.enter_context(FolderLock(made["held"]))
    made["left"].mkdir()
    elsewhere = Holder(7, "elsewhere", "another", "2026-01-01 00:00:00")
    (made["left"] / LOCK_NAME).write_text(json.dumps(asdict(elsewhere)))
    return made


def data(root: Path) -> dict[str, Path]:
    """Pictures and statistics that do not go with what is asked of them."""
    root.mkdir(parents=True)
    made = {name: root / name for name in ("captioned", "spoilt", "older")}
    for folder in made.values():
        folder.mkdir()
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "fox.png")
        (folder / "fox.txt").write_text("a red fox")
    picture = made["spoilt"] / "fox.png"
    picture.write_bytes(picture.read_bytes()[:60])
    features = torch.rand(2, 192, generator=torch.Generator().manual_seed(0))
    for name, kept in {"two_pictures": features, "moments": None}.items():
        made[name] = root / f"{name}.safetensors"
        FeatureSet("pixels", "none", "two pictures", 2, moments(features), kept).save(made[name])
    return made


def latents(root: Path, vae: Path) -> dict[str, Path]:
    root.mkdir(parents=True)
    return {"imagenet": tiny_imagenet(root, vae), "vae": vae}


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def rewritten(path: Path, change: Callable) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
