import torch

from piflow_cli.core.ema import karras_decay, update_average


def test_the_power_function_average_weighs_iteration_t_by_t_to_the_gamma() -> None:
    """Unrolled, the decays give every iterate i the weight (i/n)^8 -
    ((i-1)/n)^8, which sum to one (arXiv 2312.02696)."""
    average, values = (
        torch.zeros(1, dtype=torch.float64),
        torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    for iteration, value in enumerate(values):
        update_average([average], [value.reshape(1)], karras_decay(iteration, gamma=7))
    steps = torch.arange(51, dtype=torch.float64) / 50
    expected = (steps.pow(8).diff() * values).sum()
    torch.testing.assert_close(average[0], expected)
