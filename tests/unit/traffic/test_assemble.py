"""The split of a rollout: two versions share what they have, the others keep theirs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.traffic.assemble import rollout_split
from controlplane.traffic.model import Share, check_split
from tests.builders import make_split


@pytest.mark.parametrize(
    ("before", "candidate_bp", "after"),
    [
        ({"v1": 10_000}, 500, {"v1": 9_500, "v2": 500}),
        ({"v1": 10_000}, 0, {"v1": 10_000}),
        ({"v1": 10_000}, 10_000, {"v2": 10_000}),
        ({"v1": 9_000, "v2": 1_000}, 500, {"v1": 9_500, "v2": 500}),
        ({"v1": 6_000, "v3": 4_000}, 2_500, {"v3": 4_000, "v1": 4_500, "v2": 1_500}),
        ({"v3": 4_000, "v1": 6_000}, 10_000, {"v3": 4_000, "v2": 6_000}),
        ({"v1": 6_000, "v3": 4_000, "v4": 0}, 0, {"v3": 4_000, "v1": 6_000}),
        ({"v1": 10, "v3": 9_990}, 1, {"v3": 9_990, "v1": 9, "v2": 1}),
        ({"v1": 10, "v3": 9_990}, 9_999, {"v3": 9_990, "v1": 1, "v2": 9}),
    ],
)
def test_the_candidate_takes_from_the_baseline_alone(
    before: dict[str, int], candidate_bp: int, after: dict[str, int]
) -> None:
    assert rollout_split(make_split(**before), "v1", "v2", candidate_bp) == make_split(**after)


@given(st.integers(0, 9_998), st.integers(0, 10_000))
def test_any_split_stays_one(third: int, candidate_bp: int) -> None:
    before = (Share("v1", 10_000 - third), Share("v3", third))
    after = rollout_split(before, "v1", "v2", candidate_bp)
    check_split(after)
    shares = {share.version: share.weight_bp for share in after}
    assert shares.get("v3", 0) == third
    assert ("v2" in shares) == (candidate_bp > 0)
    assert ("v1" in shares) == (candidate_bp < 10_000)
