import pytest

from inference_worker.bench import KINDS, make_photo, run_bench
from inference_worker.imaging import Limits, decode, get_grey_plane

pytestmark = pytest.mark.integration


def test_the_photo_is_grey_and_of_the_size_that_is_said() -> None:
    photo = decode(make_photo(512), Limits())
    assert photo.shape == (512, 512, 3)
    assert get_grey_plane(photo) is not None


def test_the_bench_prints_what_a_request_costs(capfd: pytest.CaptureFixture[str]) -> None:
    """The budgets are for a free machine; here only that every figure is there and adds up."""
    assert run_bench(model="v1", side_px=512, requests=20) in {0, 1}
    rows = [line.split() for line in capfd.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == [name for name, _, _ in KINDS]
    for row in rows:
        beside, budget, decoding, network, encoding, rest = map(float, row[1:])
        assert decoding + encoding + rest == pytest.approx(beside, abs=0.3)
        assert 0 < beside < 10 * budget
        assert network > 1
