"""Run by itself where piflow is not installed: samples from exported folders, `python plain_diffusers.py JOBS RESULTS`.

JOBS is what torch.save made of a list of dictionaries, which each name a folder, how
it is loaded and what it is called with.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import torch
from diffusers import AutoModel, DiffusionPipeline, PiflowScheduler
from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module


def call_of(job: dict) -> dict:
    """What the pipeline is called with, embeddings in the dtype of the network as its own text encoders give them."""
    dtype = getattr(torch, job["dtype"])

    def cast(value):
        return [cast(part) for part in value] if isinstance(value, list) else value.to(dtype)

    return {name: cast(value) if name.endswith("_embeds") else value for name, value in job["call"].items()}


def absent(folder: str) -> dict:
    """The parts that a pipeline's index leaves empty, which must be given."""
    index = json.loads((Path(folder) / "model_index.json").read_text())
    return {name: None for name, value in index.items() if value == [None, None]}


@torch.no_grad()
def by_pipeline(job: dict) -> torch.Tensor:
    """What the pipeline in the folder makes of the call."""
    told = {"trust_remote_code": True, "torch_dtype": getattr(torch, job["dtype"])}
    pipeline = DiffusionPipeline.from_pretrained(job["folder"], **told, **absent(job["folder"]))
    pipeline.set_progress_bar_config(disable=True)
    call = call_of(job)
    if not job["casts_noise"]:
        # Its own dtype is that of the texts.
        call["latents"] = call["latents"].to(told["torch_dtype"])
    return pipeline(**call)[0]


@torch.no_grad()
def by_network(job: dict) -> torch.Tensor:
    """The merged network and the scheduler beside it, in the pipeline of the base."""
    dtype = getattr(torch, job["dtype"])
    transformer = AutoModel.from_pretrained(job["folder"], trust_remote_code=True, torch_dtype=dtype)
    kind = get_class_from_dynamic_module(
        job["folder"], "policy_scheduler.py", "scheduler", "PolicyScheduler", trust_remote_code=True
    )
    part = "unet" if "unet" in DiffusionPipeline.load_config(job["base"]) else "transformer"
    parts = {part: transformer, "scheduler": kind.from_pretrained(job["folder"], subfolder="scheduler")}
    pipeline = DiffusionPipeline.from_pretrained(job["base"], torch_dtype=dtype, **parts, **absent(job["base"]))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**call_of(job))[0]


@torch.no_grad()
def by_piflow_scheduler(job: dict) -> torch.Tensor:
    """A loop over PiflowScheduler: packed tokens as they are, images with their channels moved last."""
    if job["stock"]:
        transformer = AutoModel.from_pretrained(job["folder"], subfolder="transformer")
    else:
        transformer = AutoModel.from_pretrained(job["folder"], subfolder="transformer", trust_remote_code=True)
    scheduler = PiflowScheduler.from_pretrained(job["folder"], subfolder="scheduler")
    scheduler.set_timesteps(job["steps"])
    x = job["noise"]
    for timestep in scheduler.timesteps:
        sigma = (timestep / 1000).expand(len(x))
        if job["stock"]:
            output = transformer(hidden_states=x, timestep=sigma, **job["call"], return_dict=False)[0]
            x = scheduler.step(output, timestep, x).prev_sample
        else:
            output = transformer(x, sigma, **job["call"])
            x = scheduler.step(output.movedim(1, -1), timestep, x.movedim(1, -1)).prev_sample.movedim(-1, 1)
    return x


HOW = {"pipeline": by_pipeline, "network": by_network, "piflow-scheduler": by_piflow_scheduler}


def main(jobs: str, results: str) -> None:
    for package in ("piflow_cli", "peft", "accelerate"):
        assert importlib.util.find_spec(package) is None, f"{package} is installed here"
    torch.save({job["name"]: HOW[job["how"]](job) for job in torch.load(jobs, weights_only=True)}, results)


if __name__ == "__main__":
    main(*sys.argv[1:])
