"""What it takes to load an adapter onto its base: peak memory over the base's
own, and seconds beyond reading the files.

    python tests/benchmarks/load_adapter.py [--small] [--folder DIR] [--json FILE]

A FLUX.1 of fewer blocks with random weights in bfloat16, in shards as the Hub has them, and an adapter of rank 256 in
the published layout; blocks and adapter are in the proportion of FLUX.1. Loading happens in a process of its own, after
every file was read once, so that the disk plays no part. It ends with a look at every page of the weights: what
diffusers maps from files takes memory only then. ``peak_over_base``: growth of the resident memory at its highest,
mapped pages of files included, over the bytes of the base.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from common import machine, write_json
from safetensors.torch import save_file

from piflow_cli.presets.resolve import load
from piflow_cli.students.adapters import tensor_slots, write_adapter
from piflow_cli.students.facts import StudentFacts
from piflow_cli.students.locate import WEIGHTS_NAME
from piflow_cli.students.open import open_student
from piflow_cli.students.shared_base import root
from piflow_cli.students.student import Student, loaded_student
from piflow_cli.teachers import family_of

SHARD = 1 << 30
PAGE = 4096
STATUS = Path("/proc/self/status")


def case(small: bool) -> tuple[dict, int]:
    """Config of the base and rank of the adapter."""
    common = {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": 64,
        "attention_head_dim": 128,
        "guidance_embeds": True,
    }
    names = ("num_layers", "num_single_layers", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")
    sizes = (2, 4, 8, 256, 64) if small else (5, 10, 24, 4096, 768)
    return common | dict(zip(names, sizes)), 64 if small else 256


def noise(shape: torch.Size) -> torch.Tensor:
    """Small random values: one block of them over and over, since only their number matters."""
    count = shape.numel()
    block = 0.02 * torch.randn(min(count, 1 << 20), generator=torch.Generator().manual_seed(0))
    return block.bfloat16().repeat(-(-count // block.numel()))[:count].reshape(shape)


def write_files(folder: Path, small: bool) -> None:
    """Base and adapter, a shard at a time."""
    config, rank = case(small)
    family = family_of("flux", 3.5)
    facts = replace(StudentFacts.of(load("flux-dev")), base=str(folder / "base"), revision="")
    with torch.device("meta"):
        model = family.build(config)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "config.json").write_text(
        json.dumps(dict(model.config) | {"_class_name": config["_class_name"]})
    )
    places, shard, size = {}, {}, 0
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        shard[name] = noise(shape)
        size += 2 * shape.numel()
        if size > SHARD or number == len(shapes):
            file = f"{WEIGHTS_NAME.removesuffix('.safetensors')}-{number:05d}.safetensors"
            save_file(shard, folder / "base" / file, {"format": "pt"})
            places |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    (folder / "base" / f"{WEIGHTS_NAME}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    student: Student = loaded_student(model, family, facts, dict.fromkeys(family.adapter_targets(model), rank))
    (folder / "adapter").mkdir()
    tensors = {name: noise(getattr(*slot).shape) for name, slot in tensor_slots(student).items()}
    write_adapter(student, folder / "adapter", tensors, {})


def resident(key: str = "VmRSS") -> int:
    """Bytes of this process that are in memory, or were at most (``VmHWM``)."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def measure(folder: Path) -> dict:
    """Load once in this process."""
    import diffusers
    import peft

    # What importing costs is not what loading costs.
    assert peft.LoraConfig and diffusers.FluxTransformer2DModel
    files = sorted(folder.rglob("*.safetensors"))
    for _ in range(2):
        start = time.perf_counter()
        for file in files:
            with open(file, "rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass
        reading = time.perf_counter() - start
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    start = time.perf_counter()
    student = open_student(folder / "adapter", dtype=torch.bfloat16)
    for value in root(student.model).parameters():
        value.detach().flatten()[:: PAGE // value.element_size()].sum()
    seconds = time.perf_counter() - start
    peak, after = resident("VmHWM"), resident()
    own = {id(value) for value in student.model.parameters()}
    base = sum(value.nbytes for value in root(student.model).parameters() if id(value) not in own)
    return {
        "base_parameters": sum(value.numel() for value in root(student.model).parameters() if id(value) not in own),
        "base_bytes": base,
        "adapter_bytes": sum(value.nbytes for value in student.model.parameters()),
        "peak_over_base": round((peak - before) / base, 4),
        "resident_over_base": round((after - before) / base, 4),
        "reading_seconds": round(reading, 3),
        "loading_seconds": round(seconds, 3),
        "seconds_beyond_reading": round(seconds - reading, 3),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a base of a hundred million parameters")
    parser.add_argument("--folder", type=Path, help="where the files are made; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="file of the result")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_files(Path(folder), options.small)
        command = [sys.executable, __file__, "--measure", folder]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    result = {"benchmark": "load_adapter", **machine(torch.device("cpu")), "results": [row]}
    print(json.dumps(row, indent=1))
    if options.json is not None:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
