# ruff: noqa: S311 - repeatable draws, no secrets

import random

import numpy as np
import pytest

from controlplane.lab.upstream import Behaviour, Fate


def test_latencies_have_the_declared_median_and_tail() -> None:
    behaviour = Behaviour(median_ms=100, p95_ms=250, factor=3)
    rng = random.Random(5)
    delays = np.array([behaviour.draw(rng)[1] for _ in range(40_000)]) * 1_000
    assert np.percentile(delays, [50, 95]) == pytest.approx([300, 750], rel=0.03)


def test_faults_have_the_declared_shares() -> None:
    behaviour = Behaviour(error_share=0.2, hang_share=0.1)
    rng = random.Random(5)
    fates = [behaviour.draw(rng)[0] for _ in range(40_000)]
    assert fates.count(Fate.ERROR) / 40_000 == pytest.approx(0.2, abs=0.01)
    assert fates.count(Fate.HANG) / 40_000 == pytest.approx(0.1, abs=0.01)


def test_the_same_seed_gives_the_same_fates() -> None:
    behaviour = Behaviour(median_ms=10, p95_ms=20, error_share=0.5)
    one, two = random.Random(9), random.Random(9)
    assert [behaviour.draw(one) for _ in range(50)] == [behaviour.draw(two) for _ in range(50)]


@pytest.mark.parametrize(
    "wrong",
    [{"median_ms": 5, "p95_ms": 1}, {"error_share": 1.5}, {"hang_share": -0.1}, {"factor": 0}],
)
def test_an_impossible_behaviour_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|factor|median"):
        Behaviour(**wrong)  # type: ignore[arg-type] # all fields here are floats
