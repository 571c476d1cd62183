"""pi-Flow in 100 lines: a spiral in the plane, a teacher of many steps, a student of one; seconds on a CPU."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from piflow_cli.core.constants import ImitationConfig
from piflow_cli.core.decoding import PolicyDecoder
from piflow_cli.core.imitation import data_free_losses
from piflow_cli.core.policies.base import Policy
from piflow_cli.core.rollout import rollout
from piflow_cli.core.timegrid import TimeGrid

POINTS, SPREAD = 48, 0.05  # the data: normal clouds of this standard deviation along a spiral
COMPONENTS, SUBSTEPS = 16, 64
GRID = TimeGrid(nfe=1)  # one network evaluation: one segment, from noise (raw time 1) to data (0)
CONFIG = ImitationConfig(GRID, states=2, window=2, substeps=SUBSTEPS, dropout=0.05, components=COMPONENTS)
DECODER = PolicyDecoder("gm", COMPONENTS)


def spiral() -> Tensor:
    """The centres of the clouds, (POINTS, 2)."""
    angle = torch.linspace(0.5, 3.0, POINTS) * torch.pi
    return torch.stack([angle.cos(), angle.sin()], dim=1) * angle.unsqueeze(1) / 6


def teacher(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact velocity (x - E[x_0 | x]) / sigma of the spiral at states x (B, 2, 1) and noise levels sigma (B,)."""
    sigma = sigma.float().clamp(min=1e-4).reshape(-1, 1, 1)
    state, centres, signal = x.squeeze(2).unsqueeze(1), spiral(), 1 - sigma
    variance = signal**2 * SPREAD**2 + sigma**2  # of x around (1 - sigma) times a centre
    away = state - signal * centres
    likely = (-away.square().sum(2, keepdim=True) / (2 * variance)).softmax(dim=1)
    x_0 = (likely * (centres + signal * SPREAD**2 / variance * away)).sum(dim=1)
    return (x - x_0.unsqueeze(2)) / sigma


class Student(nn.Module):
    """State and raw time in; out come the channels of a GM policy: means (K, 2), log-weights (K, 1) and one log-std."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * COMPONENTS + 1)
        )
        with torch.no_grad():
            self.layers[-1].bias[-1] = -2.0  # the log-std: narrow Gaussians to begin with

    def forward(self, x: Tensor, raw: Tensor) -> Policy:
        told = torch.cat([x.squeeze(2), raw.float().unsqueeze(1)], dim=1)
        return DECODER.policy(self.layers(told).unsqueeze(2), x, raw)


def train(student: Student, iterations: int = 200, batch: int = 256) -> Student:
    """pi-ID from noise: the policy walks, the teacher answers on the way, and the policy is moved to the answers."""
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for _ in range(iterations):
        optimiser.zero_grad()
        for loss in data_free_losses(student, teacher, torch.randn(batch, 2, 1), CONFIG):
            loss.backward()
        optimiser.step()
        schedule.step()
    return student


@torch.no_grad()
def sample(student: Student, noise: Tensor) -> Tensor:
    """One evaluation of the network, then its policy down to the data."""
    start = torch.ones(len(noise), dtype=torch.float64)
    return rollout(student(noise, start), noise, start, torch.zeros_like(start), substeps=SUBSTEPS)


def teacher_sample(noise: Tensor, steps: int) -> Tensor:
    """Euler steps of the teacher, even in sigma."""
    x, times = noise, torch.linspace(1, 0, steps + 1)
    for upper, lower in pairwise(times):
        x = x + (lower - upper) * teacher(x, upper.expand(len(x)))
    return x


def main() -> None:
    """Train, and print how far from the teacher's fine samples of the same noise everything ends."""
    torch.manual_seed(0)
    noise, student = torch.randn(2048, 2, 1), Student()
    fine = teacher_sample(noise, 256)

    def report(who: str, steps: int, ends: Tensor) -> None:
        print(f"{who:18} {steps:3}  {(ends - fine).square().mean():.4f}")

    print("model      evaluations  squared distance to the teacher's 256 steps")
    for steps in (1, 8, 32):
        report("teacher", steps, teacher_sample(noise, steps))
    report("untrained student", 1, sample(student, noise))
    report("student", 1, sample(train(student), noise))


if __name__ == "__main__":
    main()
