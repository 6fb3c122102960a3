import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.costs import GOOD_RUNS, Budget, Costs, fit_line, follow, size_budget


@given(
    base=st.floats(0, 10), slope=st.floats(1e-9, 1e-3), pixels=st.lists(st.integers(1, 10**6), min_size=2, max_size=5)
)
def test_a_line_is_found_again(base: float, slope: float, pixels: list[int]) -> None:
    found_base, found_slope = fit_line([(x, base + slope * x) for x in pixels])
    for x in pixels:
        assert found_base + found_slope * x == pytest.approx(base + slope * x, rel=1e-3, abs=1e-6)


@given(points=st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-6, 100)), min_size=1, max_size=6))
def test_no_line_has_a_negative_part(points: list[tuple[int, float]]) -> None:
    base, slope = fit_line(points)
    assert base >= 0
    assert slope >= 0


def test_points_of_one_size_make_a_line_from_zero() -> None:
    assert fit_line([(100, 2.0)]) == fit_line([(100, 1.0), (100, 3.0)]) == (0.0, 0.02)


@given(measured=st.lists(st.floats(0.001, 10), min_size=1))
def test_an_estimate_stays_among_what_was_measured(measured: list[float]) -> None:
    estimate = 0.0
    for value in measured:
        estimate = follow(estimate, value)
    assert min(measured) * 0.999 <= estimate <= max(measured) * 1.001


def test_one_stall_hardly_moves_an_estimate() -> None:
    assert follow(0.02, 2.0) < 0.06


def test_costs_learn_from_runs_and_from_nothing() -> None:
    assert Costs().estimate_s(10**6) == 0
    learned = Costs().observe(1000, 0.5)
    assert learned.estimate_s(2000) == pytest.approx(1.0)
    for _ in range(40):
        learned = learned.observe(1000, 1.0)
    assert learned.estimate_s(1000) == pytest.approx(1.0, rel=0.01)
    assert learned.doubt().estimate_s(1000) < learned.estimate_s(1000)


@given(st.data())
def test_a_budget_stays_between_one_pixel_and_its_ceiling(data: st.DataObject) -> None:
    budget = Budget(limit_px=10_000, ceiling_px=10_000)
    for _ in range(data.draw(st.integers(0, 200))):
        pixels = data.draw(st.integers(1, 10_000))
        before = budget
        if data.draw(st.booleans()):
            budget = budget.shrink(pixels)
            assert budget.limit_px <= max(1, before.limit_px // 2)
        else:
            budget = budget.prosper(pixels)
            assert budget.limit_px >= before.limit_px
        assert 1 <= budget.limit_px <= budget.ceiling_px


def test_a_shrunk_budget_comes_back_by_runs_that_use_it() -> None:
    budget = Budget(limit_px=8000, ceiling_px=8000).shrink(8000)
    for _ in range(100):
        assert budget.prosper(100) == budget
    for _ in range(GOOD_RUNS):
        budget = budget.prosper(4000)
    assert budget.limit_px == 5000
    for _ in range(3 * GOOD_RUNS):
        budget = budget.prosper(8000)
    assert budget.is_whole


def test_memory_bounds_a_run() -> None:
    peaks = [(1000, 2_000_000.0), (2000, 3_000_000.0)]
    assert size_budget(peaks, limit_bytes=11_000_000, unbounded_px=10**6).limit_px == 10_000
    assert size_budget(peaks, limit_bytes=11_000_000, unbounded_px=5000).limit_px == 5000
    assert size_budget(peaks, limit_bytes=1000, unbounded_px=5000).limit_px == 1
    assert size_budget([(1000, 0.0), (2000, 0.0)], limit_bytes=1, unbounded_px=5000).limit_px == 5000
