"""A policy of the size of FLUX.1 at 1024 x 1024 is looked at in the memory of a few of it."""

import subprocess
import sys

COPIES = 8

PROGRAM = """
import resource

import torch

from paths import path_of
from piflow_cli.core.policies.gmflow import GMFlowPolicy
from piflow_cli.inspection.kinds.mixture import by_sample, switching
from piflow_cli.inspection.motion import motion
from piflow_cli.inspection.robustness import component_dropout, perturb
from piflow_cli.inspection.request import Position
from piflow_cli.inspection.slices import slice_of
from piflow_cli.inspection.substeps import convergence
from piflow_cli.sampling.trajectory import times


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def look(scale, batch):
    draw = torch.Generator().manual_seed(0)
    space = (128 // scale, 128 // scale)
    means = torch.randn(batch, 8, 16, *space, generator=draw)
    x = torch.randn(batch, 16, *space, generator=draw)
    logits = torch.randn(batch, 8, 1, *space, generator=draw)
    policy = GMFlowPolicy(means, logits, torch.full((batch,), -2.0), x, times(1.0, x), 3.2)
    with torch.no_grad():
        path = path_of(policy, 1 - 1 / 3.5)
        before = peak()
        by_sample(policy), motion(path), switching(path, 128), convergence(path)
        component_dropout(path, 128), perturb(path, torch.randn_like(x), None, 3.2, 128)
        slice_of(path, Position(100 // scale, 7), 128)
    return (peak() - before) / means.nbytes


look(8, 1)  # what is loaded at the first call is no policy's
print(look(1, 4))
"""


def test_a_few_copies_of_the_means_are_enough() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": "tests", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < COPIES
