"""What a policy costs beside its network: time of one rollout over time of one network evaluation, and memory added.

    python tests/benchmarks/overhead.py [--device cpu|cuda] [--small] [--json FILE]

Networks have random weights: FLUX.1's transformer (12 B, bf16) at 1024² with 4 NFE, and DiT-XL/2 at batch 64 with 1
NFE.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from common import machine, medians, write_json
from torch import Tensor

from piflow_cli.core.decoding import PolicyDecoder
from piflow_cli.core.rollout import rollout
from piflow_cli.teachers.dit_network import DiT


@dataclass(frozen=True)
class Student:
    """A network and what its policy needs: ``output`` and ``sample`` as the head emits and the pipeline holds them."""

    name: str
    network: Callable[[], object]
    decoder: PolicyDecoder
    output: Tensor
    sample: Tensor
    substeps: int


def flux(device: torch.device, small: bool) -> Student:
    from diffusers import FluxTransformer2DModel

    sizes = (
        {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "joint_attention_dim": 64} if small else {}
    )
    sizes |= {"pooled_projection_dim": 32} if small else {}
    tokens, words, dtype = (64, 8, torch.float32) if small else (4096, 512, torch.bfloat16)
    with torch.device(device):
        model = FluxTransformer2DModel(guidance_embeds=True, **sizes).to(dtype).eval().requires_grad_(False)
        config, side = model.config, int(tokens**0.5)
        rows = torch.arange(side).repeat_interleave(side)
        places = torch.stack([torch.zeros_like(rows), rows, torch.arange(side).repeat(side)], dim=1)
        inputs = {
            "hidden_states": torch.randn(1, tokens, config.in_channels, dtype=dtype),
            "encoder_hidden_states": torch.randn(1, words, config.joint_attention_dim, dtype=dtype),
            "pooled_projections": torch.randn(1, config.pooled_projection_dim, dtype=dtype),
            "timestep": torch.ones(1, dtype=dtype),
            "guidance": torch.full((1,), 3.5, dtype=dtype),
            "img_ids": places.to(dtype),
            "txt_ids": torch.zeros(words, 3, dtype=dtype),
        }
        decoder = PolicyDecoder("gm", 8, shift=3.2, patch=4)
        output = torch.randn(1, tokens, 8 * 16 * 4 + 8 * 4 + 1, dtype=dtype)
        output[..., -1] = -2
    sample = inputs["hidden_states"].float()
    return Student("FLUX.1 1024², 4 NFE, bf16", lambda: model(**inputs), decoder, output, sample, 37)


def dit(device: torch.device, small: bool) -> Student:
    sizes = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16} if small else {}
    batch = 2 if small else 64
    with torch.device(device):
        model = DiT(**sizes).to(torch.float32 if small else torch.bfloat16).eval().requires_grad_(False)
        dtype = next(model.parameters()).dtype
        sample = torch.randn(batch, 4, 32, 32)
        labels = torch.zeros(batch, dtype=torch.long)
        output = torch.randn(batch, 32 * 4 + 32 + 1, 32, 32, dtype=dtype)
        output[:, -1] = -2
        sigma, narrow = torch.ones(batch), sample.to(dtype)
    decoder = PolicyDecoder("gm", 32, shift=1.0)
    return Student(
        f"DiT-XL/2, batch {batch}, 1 NFE", lambda: model(narrow, sigma, labels), decoder, output, sample, 128
    )


@torch.no_grad()
def measure(student: Student, device: torch.device, rounds: int) -> dict:
    raw = torch.ones(len(student.sample), dtype=torch.float64, device=device)
    end = raw - student.substeps / 128

    def policy() -> Tensor:
        decoded = student.decoder.policy(student.output, student.sample, raw)
        return student.decoder.pack(rollout(decoded, decoded.x_src, raw, end))

    times = medians({"network": student.network, "policy": policy}, device, rounds)
    row = {"case": student.name, "network_ms": times["network"], "policy_ms": times["policy"],
           "share": times["policy"] / times["network"], "memory_over_means": None}  # fmt: skip
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        policy()
        added = torch.cuda.max_memory_allocated(device) - before
        means = student.decoder.policy(student.output, student.sample, raw).means
        row["memory_over_means"] = added / (means.numel() * means.element_size())
    print("{case:32s} network {network_ms:10.3f} ms   policy {policy_ms:8.3f} ms   share {share:.3%}   "
          "memory / means {memory_over_means}".format(**row), flush=True)  # fmt: skip
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="networks of a layer or two: does it run at all")
    parser.add_argument("--rounds", type=int, default=21, help="turns to take the median of")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    rows = [measure(make(device, options.small), device, options.rounds) for make in (flux, dit)]
    if options.json is not None:
        write_json(options.json, {"benchmark": "overhead", **machine(device), "results": rows})


if __name__ == "__main__":
    main()
