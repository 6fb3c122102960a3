import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.sizing import SizeRange

PERSON, BUILDING = SizeRange(460, 680), SizeRange(960, 1280)


@pytest.mark.parametrize(
    ("sizes", "asked", "effective"),
    [
        (PERSON, 460, 480),
        (PERSON, 680, 672),
        (PERSON, 640, 640),
        (PERSON, 512, 512),
        (PERSON, 1, 480),
        (PERSON, 99_999, 672),
        (PERSON, 500, 512),
        (PERSON, 495, 480),
        (BUILDING, 680, 960),
        (BUILDING, 960, 960),
        (BUILDING, 1280, 1280),
        (BUILDING, 1111, 1120),
    ],
)
def test_the_nearest_multiple_inside_the_range_is_taken(sizes: SizeRange, asked: int, effective: int) -> None:
    assert sizes.choose(asked) == effective


@given(low=st.integers(32, 1248), width=st.integers(31, 1000), asked=st.integers(1, 99_999))
def test_no_multiple_in_the_range_is_nearer(low: int, width: int, asked: int) -> None:
    sizes = SizeRange(low, min(1280, low + width))
    chosen = sizes.choose(asked)
    allowed = [side for side in range(32, 1281, 32) if sizes.low_px <= side <= sizes.high_px]
    assert chosen in allowed
    assert abs(chosen - asked) == min(abs(side - asked) for side in allowed)


@pytest.mark.parametrize(("low", "high"), [(33, 63), (680, 460), (0, 10), (-64, 64), (1281, 1300), (960, 1312)])
def test_impossible_ranges_are_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        SizeRange(low, high)
