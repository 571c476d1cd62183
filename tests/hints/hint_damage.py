"""Students, bases, runs and data with something wrong with them, for the wrong lines that name them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from fuzz_inputs import WEIGHTS
from hint_settings import settings
from inception import save_random_inception
from PIL import Image
from safetensors.torch import load_file, save_file
from sit import sit_weights
from tiny_imagenet import tiny_imagenet
from video_files import captioned_videos
from zoo import ZOO, student_of

from piflow_cli.evaluation.extractors.features import FeatureSet
from piflow_cli.evaluation.extractors.moments import moments
from piflow_cli.presets.resolve import resolve
from piflow_cli.students.adapters import save_adapter
from piflow_cli.students.run_checkpoints import write_record
from piflow_cli.students.run_settings import planned_settings
from piflow_cli.students.runs import BudgetRecord, RunFolder
from piflow_cli.system.locking import LOCK_NAME, FolderLock, LockHolder

# Of both halves of a VAE; where all of them are large, nothing stays finite.
LAST_LAYERS = ("encoder.conv_out.weight", "quant_conv.weight", "post_quant_conv.weight")


def damaged(root: Path, files: Mapping[str, Path], vae: Path, stack: ExitStack) -> dict[str, Path]:
    """Everything in ``root``, by the words that stand for it in braces. ``files``: what is whole. ``vae``: of four
    channels. ``stack``: lets go of what another run holds in the end."""
    return {
        **students(root / "students", files),
        **class_bases(root / "class_bases", files["teacherbase"]),
        **text_bases(root / "text_bases", files["base"]),
        **runs(root / "runs", files, stack),
        **data(root / "data"),
        **unweighted(root / "unweighted"),
        **latents(root / "latents", vae),
        **settings(root / "settings"),
    }


def unweighted(root: Path) -> dict[str, Path]:
    """Folders of models that transformers knows, of which no weights were copied."""
    made = {name: root / name for name in ("clip", "dinov2")}
    for name, folder in made.items():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": name}))
    return made


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
    own = dict(large.model.named_parameters())
    with torch.no_grad():
        # A channel that the head does not look at, beyond what float16 holds.
        own["norm_out.linear.bias"][0] = 1e5
        for name in ("proj_out.means.weight", "proj_out.logweights.weight"):
            own[name][:, 0] = 0.0
    made["large"] = root / "large"
    save_adapter(large, made["large"])
    return made


def class_bases(root: Path, whole: Path) -> dict[str, Path]:
    """Bases of classes that no model can be read from, or only with a config beside them."""
    made = {name: copied(whole, root / name) for name in ("torn", "unweighted")}
    tensors = load_file(whole / WEIGHTS)
    save_file(dict(list(tensors.items())[1:]), made["torn"] / WEIGHTS)
    (made["unweighted"] / WEIGHTS).unlink()
    infinite = {name: torch.full_like(value, torch.inf) for name, value in tensors.items()}
    for name, content in {"alone": tensors, "infinite": infinite, "sit": sit_weights()}.items():
        made[name] = root / f"{name}.safetensors"
        save_file(content, made[name])
    made["nothing"] = root / "nothing.pt"
    torch.save([1], made["nothing"])
    return made


def text_bases(root: Path, whole: Path) -> dict[str, Path]:
    """Bases of texts that are another model than the student's, lack a part, or bring code."""
    made = {name: copied(whole, root / name) for name in ("coded", "deeper", "without_vae", "loud", "stranger")}
    weights = load_file(made["loud"] / "text_encoder" / "model.safetensors")
    save_file(
        {
            name: torch.full_like(value, 3e38) if "final_layer_norm.weight" in name else value
            for name, value in weights.items()
        },
        made["loud"] / "text_encoder" / "model.safetensors",
        {"format": "pt"},
    )
    config = made["coded"] / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "code.Model"}}))
    own = FluxTransformer2DModel.load_config(whole / "transformer")
    deeper = FluxTransformer2DModel.from_config({**own, "num_layers": own["num_layers"] + 1})
    deeper.save_pretrained(made["deeper"] / "transformer")
    shutil.rmtree(made["without_vae"] / "vae")
    stranger = made["stranger"] / "transformer" / "config.json"
    stranger.write_text(json.dumps({"_class_name": "MiniMaxH3Transformer3DModel"}))
    return made


def runs(root: Path, files: Mapping[str, Path], stack: ExitStack) -> dict[str, Path]:
    """Runs that cannot go on, for one reason each."""
    names = ("other_data", "other_data2", "changed", "unreadable", "torn_run", "other_run", "torn_fork")
    made = {name: copied(files["run"], root / name) for name in names}
    for name in ("other_data", "other_data2"):
        (made[name] / "data.sha256").write_text("0" * 64 + "\n")
    settings = made["changed"] / "run.yaml"
    settings.write_text(settings.read_text().replace("learning_rate: ", "learning_rate: 1"))
    (made["unreadable"] / "run.yaml").write_text("{")
    for record in made["torn_run"].glob("checkpoints/*/state.json"):
        record.write_text("{")
    [record] = made["other_run"].glob("checkpoints/*/state.json")
    save_file({"student.other": torch.zeros(1)}, record.parent / "training.safetensors")
    write_record(record.parent, int(record.parent.name), None)
    shutil.rmtree(made["torn_fork"] / "checkpoints")
    (made["torn_fork"] / "fork.json").write_text("{")
    for name in ("cut_run", "emptied_run"):
        made[name] = copied(files["run"], root / name)
    os.truncate(made["cut_run"] / "adapter" / WEIGHTS, 1000)
    (made["emptied_run"] / "adapter" / WEIGHTS).unlink()
    for name in ("cosine", "cosine2"):
        made[name] = root / name
        made[name].mkdir()
        preset = resolve(files["teacher"], None, ["optimisation.schedule=cosine"], {"optimisation.iterations": 1})
        RunFolder(made[name]).write_settings(preset)
    for name in ("timed", "timed2"):
        made[name] = root / name
        made[name].mkdir()
        preset = resolve(files["teacher"], None, [], {"optimisation.budget": "60s"})
        RunFolder(made[name]).write_settings(preset)
        RunFolder(made[name]).write_budget(BudgetRecord(1.0, ((0, 0.0, 9),), planned_settings(preset)))
    made["held"], made["left"] = root / "held", root / "left"
    stack.enter_context(FolderLock(made["held"]))
    made["left"].mkdir()
    elsewhere = LockHolder(7, "elsewhere", "another", "2026-01-01 00:00:00")
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
    (made["spoilt"] / "fox.png").write_text("no picture")
    shutil.copy(made["older"] / "fox.png", made["older"] / "cat.png")
    made["videos"] = captioned_videos(root / "videos")
    made["classed"] = root / "classed"
    for number in range(5):
        copied(made["older"], made["classed"] / str(number))
    made["inception"] = save_random_inception(root)
    made["statistics"] = root / "statistics.npz"
    np.savez(made["statistics"], mu=np.zeros(2048), sigma=np.eye(2048))
    for name, side in {"sizes": 8, "huge": 129}.items():
        made[name] = copied(made["older"], root / name)
        Image.fromarray(np.zeros((side, side), np.uint8)).save(made[name] / "large.png")
    # As many numbers as the pictures of the students of classes and of texts have, and those of hint_inputs.
    for side, channels in ((4, 1), (8, 3), (16, 3)):
        features = torch.rand(4, channels * side * side, generator=torch.Generator().manual_seed(0))
        for name, kept, count in (("pictures", features, 4), ("moments", None, 2)):
            made[f"{name}{side}"] = root / f"{name}{side}.safetensors"
            FeatureSet("pixels", "none", "pictures", count, moments(features), kept).save(made[f"{name}{side}"])
    # One that may be replaced.
    made["moments8b"] = Path(shutil.copyfile(made["moments8"], root / "moments8b.safetensors"))
    return made


def latents(root: Path, vae: Path) -> dict[str, Path]:
    root.mkdir(parents=True)
    loud = copied(vae, root / "loud_vae")
    weights = load_file(vae / WEIGHTS)
    large = {name: torch.full_like(weights[name], 1e38) for name in LAST_LAYERS}
    save_file(weights | large, loud / WEIGHTS)
    return {"imagenet": tiny_imagenet(root, vae), "vae": vae, "loud_vae": loud}


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))
