import math
from itertools import pairwise

import pytest
import torch
from helpers import golden
from hypothesis import given
from hypothesis import strategies as st

from piflow_cli.core.timegrid import TimeGrid, renoising, substep_count, to_raw, to_sigma

SHIFTS = st.floats(0.05, 20)
TIMES = st.floats(0, 1)
GRIDS = st.builds(TimeGrid, st.integers(1, 40), st.floats(0.01, 1), SHIFTS, st.sampled_from([1.0, 0.936]))


@given(TIMES, SHIFTS)
def test_raw_time_and_sigma_are_inverse(raw: float, shift: float) -> None:
    assert to_raw(to_sigma(raw, shift), shift) == pytest.approx(raw, abs=1e-12)


@given(TIMES, TIMES, SHIFTS)
def test_sigma_grows_with_raw_time_and_keeps_the_ends(first: float, second: float, shift: float) -> None:
    low, high = sorted((first, second))
    assert to_sigma(low, shift) <= to_sigma(high, shift) + 1e-15
    assert to_sigma(0.0, shift) == 0 and to_sigma(1.0, shift) == pytest.approx(1, abs=1e-15)


@given(GRIDS)
def test_segments_fill_raw_time_and_the_last_is_scaled(grid: TimeGrid) -> None:
    edges = grid.edges
    lengths = [upper - lower for upper, lower in pairwise(edges)]
    assert len(lengths) == grid.nfe and edges[-1] == 0
    assert to_sigma(edges[0], grid.shift) == pytest.approx(grid.noisiest) and (edges[0] == 1) == (grid.noisiest == 1)
    assert lengths[:-1] == pytest.approx([grid.segment] * (grid.nfe - 1))
    if grid.nfe > 1:
        assert lengths[-1] == pytest.approx(grid.final_step_scale * grid.segment)


@given(GRIDS, st.lists(st.floats(0, 1, exclude_min=True), min_size=1, max_size=8))
def test_the_enclosing_segment_holds_the_time(grid: TimeGrid, raws: list[float]) -> None:
    raws = [raw * grid.start for raw in raws]
    upper, length = grid.enclosing(torch.tensor(raws, dtype=torch.float64))
    for raw, top, extent in zip(raws, upper.tolist(), length.tolist()):
        assert top + 1e-9 >= raw >= top - extent - 1e-9
        assert top in grid.edges


@pytest.mark.parametrize(
    ("interval", "count"), [(0.0, 1), (0.001, 1), (3 / 128, 3), (0.25, 32), (1.0, 128), (1 / 3.5, 37)]
)
def test_substeps_are_rounded_and_at_least_one(interval: float, count: int) -> None:
    assert substep_count(torch.tensor([interval], dtype=torch.float64), 128).item() == count


@pytest.mark.parametrize(("nfe", "final"), [(1, 1.0), (2, 0.5), (2, 1.0), (4, 0.5), (4, 1.0), (8, 0.5), (8, 1.0)])
@pytest.mark.parametrize("stochastic", [0.0, 0.5, math.inf])
def test_schedule_equals_the_published_numbers(nfe: int, final: float, stochastic: float) -> None:
    numbers = golden("policies.safetensors")
    sigmas = [to_sigma(raw, 3.2) for raw in TimeGrid(nfe, final, 3.2).edges]
    ends, memories = zip(*(renoising(source, end, stochastic) for source, end in pairwise(sigmas)))
    prefix = f"schedule.nfe{nfe}.h{stochastic}.final{final}"
    for name, ours in (("t_src", sigmas[:-1]), ("t_dst", ends), ("m", memories)):
        torch.testing.assert_close(torch.tensor(ours), numbers[f"{prefix}.{name}"], rtol=1e-5, atol=1e-6)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 3))
def test_renoising_restores_the_noise_level(first: float, second: float, stochastic: float) -> None:
    """Signal and noise of (1 - e + e m) x_dst + e sqrt(1 - m^2) noise are those of level e (arXiv 2504.05304)."""
    end, source = sorted((first, second))
    reached, memory = renoising(source, end, stochastic)
    scale, added = 1 - end + end * memory, end * math.sqrt(1 - memory**2)
    assert scale * (1 - reached) == pytest.approx(1 - end, rel=1e-9)
    assert math.hypot(scale * reached, added) == pytest.approx(end, rel=1e-9)


def test_what_is_too_large_to_square_renoises_fully() -> None:
    assert renoising(0.9, 0.5, 1e200) == renoising(0.9, 0.5, math.inf) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0,), "nfe"),
        ((1, 0.0), "final_step_scale"),
        ((1, 1.5), "final_step_scale"),
        ((1, 1.0, 0.0), "shift"),
        ((1, 1.0, 1.0, 0.0), "noisiest"),
    ],
)
def test_impossible_grids_are_refused(arguments: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TimeGrid(*arguments)


@pytest.mark.parametrize("stochastic", [-0.1, math.nan])
def test_impossible_stochasticity_is_refused(stochastic: float) -> None:
    with pytest.raises(ValueError, match="stochastic"):
        renoising(0.9, 0.5, stochastic)
