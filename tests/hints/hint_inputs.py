"""Files that wrong lines name, and those that their hints have in their place."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import torch
from edit_data import listed_edits, picture
from fuzz_inputs import WEIGHTS, _files
from safetensors.torch import load_file, save_file
from tiny_edm2 import tiny_edm2
from tiny_pipeline import tokenizer, whole_pipeline
from tiny_vae import tiny_vae
from transformers import UMT5Config, UMT5EncoderModel
from zoo import EDITS, WIDTH, ZOO, student_of, zoo_preset

from piflow_cli.app import main
from piflow_cli.presets.families import boundary_of
from piflow_cli.students.adapters import save_adapter

# Of the two factors of a LoRA on a layer of the tiny FLUX.
SHAPES = {"A": (2, 32), "B": (32, 2)}


def inputs(root: Path, teacher: Path) -> dict[str, Path]:
    """Everything in ``root``, by the words that stand for it in braces; ``teacher``: the preset of a tiny one."""
    files = _files(root / "files")
    for name, policy in {"run": "gm", "dx": "dx"}.items():
        files[name] = root / name
        done(
            "distill", "--teacher", str(teacher), "--policy", policy, "--iterations", "1", "--output", str(root / name)
        )
    files |= text_student(root / "flux")
    files |= video_student(root / "wan", "wan", "video") | video_student(root / "wan-a14b", "wan-a14b", "pair")
    files |= edit_student(root / "kontext") | modular_student(root / "flux3")
    for name in ("run2", "run3"):
        files[name] = shutil.copytree(files["run"], root / name)
    files |= {"teacher": teacher, "teacherbase": teacher.parent / "teacher"}
    files |= {"unetbase": root / "edm2", "program": root / "edm2.pkl"}
    tiny_edm2().save_pretrained(files["unetbase"])
    files["program"].touch()
    files["labelled"] = teacher.parent / "images.safetensors"
    files["unfinished"] = shutil.copytree(files["run"], root / "unfinished")
    shutil.rmtree(files["unfinished"] / "adapter")
    files["several"] = root / "several"
    for name in ("one", "two"):
        shutil.copytree(files["run"] / "adapter", files["several"] / name)
    files["bare"] = root / "bare.safetensors"
    save_file(load_file(files["run"] / "adapter" / WEIGHTS), files["bare"])
    files["lora"] = root / "style.safetensors"
    name = "transformer.transformer_blocks.0.attn.to_q.lora_{}.weight"
    save_file({name.format(one): torch.zeros(shape) for one, shape in SHAPES.items()}, files["lora"])
    files["strong"] = root / "strong.safetensors"
    save_file({name.format(one): torch.full(shape, 1e30) for one, shape in SHAPES.items()}, files["strong"])
    files["loras"] = root / "loras"
    files["loras"].mkdir()
    for name in ("one", "two"):
        shutil.copy(files["lora"], files["loras"] / f"{name}.safetensors")
    files |= styled(root, files)
    files["many"] = root / "many.txt"
    files["many"].write_text("a red fox\n" * 5000)
    files["dataset"] = root / "dataset"
    files["dataset"].mkdir()
    shutil.copy(files[".csv"], files["dataset"] / "train.csv")
    files["merged"] = root / "merged"
    done("export", str(files["run"]), "--format", "merged", "--output", str(files["merged"]))
    # Of an eval that nobody knows, of an inspection, and of an export.
    for name, content in {"notours": ("report.json", "{}"), "report": ("policy.json", '{"students": []}')}.items():
        files[name] = root / name
        files[name].mkdir()
        (files[name] / content[0]).write_text(content[1])
    files["exported"] = root / "exported"
    done("export", str(files["run"]), "--format", "adapter", "--output", str(files["exported"]))
    files["cache"] = root / "cache"
    (files["cache"] / "weights").mkdir(parents=True)
    (files["cache"] / "weights" / "downloaded.pth").touch()
    files["exported2"] = shutil.copytree(files["exported"], root / "exported2")
    return files


def text_student(folder: Path) -> dict[str, Path]:
    """A student with adapters on a whole pipeline."""
    folder.mkdir()
    preset, read = zoo_preset(ZOO["flux"], folder)
    shutil.rmtree(folder / "base")
    whole_pipeline(folder / "base")
    student = student_of(ZOO["flux"], ZOO["flux"].build())
    student.facts = replace(student.facts, base=read.teacher.base)
    save_adapter(student, folder / "adapter")
    return {"text": folder / "adapter", "base": folder / "base", "preset": preset}


def video_student(folder: Path, family: str, called: str) -> dict[str, Path]:
    """A student of videos with adapters on a whole pipeline, ``called`` so, its base and its preset."""
    folder.mkdir()
    row = ZOO[family]
    preset, read = zoo_preset(row, folder)
    shutil.rmtree(folder / "base")
    umt5 = UMT5EncoderModel(UMT5Config(vocab_size=8, d_model=WIDTH, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    student = student_of(row, row.build())
    parts, told = (tokenizer(512), umt5.eval(), tiny_vae(family), scheduler), student.family.parts(row.build())
    boundary = {} if boundary_of(family) is None else {"boundary_ratio": boundary_of(family)}
    diffusers.WanPipeline(*parts, **told, **boundary).save_pretrained(folder / "base")
    student.facts = replace(student.facts, base=read.teacher.base)
    save_adapter(student, folder / "adapter")
    return {called: folder / "adapter", f"{called}preset": preset, f"{called}base": folder / "base"}


def edit_student(folder: Path) -> dict[str, Path]:
    """A student that edits pictures, with adapters on a whole pipeline, and what it is shown and learns from."""
    folder.mkdir()
    row = EDITS["flux-kontext"]
    preset, read = zoo_preset(row, folder)
    shutil.rmtree(folder / "base")
    whole_pipeline(folder / "base")
    student = student_of(row, row.build())
    student.facts = replace(student.facts, base=read.teacher.base)
    save_adapter(student, folder / "adapter")
    edits = {"edits": listed_edits(folder / "edits"), "untouched": listed_edits(folder / "untouched", targets=False)}
    return {"edit": folder / "adapter", "editpreset": preset, "shown": picture(folder / "0.png", 0)} | edits


def modular_student(folder: Path) -> dict[str, Path]:
    """A student whose stock pipeline is a modular one, its base and preset, and a flow map in the base's place."""
    folder.mkdir()
    row = ZOO["flux3-klein"]
    preset, read = zoo_preset(row, folder)
    student = student_of(row, row.build())
    student.facts = replace(student.facts, base=read.teacher.base)
    save_adapter(student, folder / "adapter")
    diffusers.Flux3Transformer2DModel(**row.config, flow_map=True).save_pretrained(folder / "flow_map" / "transformer")
    made = {"modular": "adapter", "modularbase": "base", "flowmap": "flow_map"}
    return {"modularpreset": preset, **{called: folder / name for called, name in made.items()}}


def styled(root: Path, files: dict[str, Path]) -> dict[str, Path]:
    """A run with a LoRA in its base, and one whose LoRA is another now."""
    style = root / "changed_style.safetensors"
    shutil.copy(files["lora"], style)
    told = ["--prompts", str(files[".txt"]), "--set", "data.resolution=16", "--iterations", "1", "--device", "cpu"]
    named = ["--teacher", str(files["preset"]), "--teacher-lora", str(style)]
    done("distill", *named, *told, "--set", "optimisation.batch_size=1", "--output", str(root / "styled"))
    shutil.copytree(root / "styled", root / "restyled")
    save_file({name: value + 1 for name, value in load_file(style).items()}, style)
    return {"styled": root / "styled", "restyled": root / "restyled", "changed_style": style}


def done(*arguments: str) -> None:
    assert main([*arguments, "--quiet"]) == 0, arguments
