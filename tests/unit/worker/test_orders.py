import pytest

from inference_worker.errors import BadRequestError
from inference_worker.imaging import Encoding
from inference_worker.orders import Order, read_order
from inference_worker.scheduling import Priority


def test_nothing_said_means_the_defaults() -> None:
    assert read_order({}, {}) == Order()


def test_everything_said_is_heard() -> None:
    headers = {"accept": "image/jpeg", "x-priority": "Bulk", "x-envoy-expected-rq-timeout-ms": "1500"}
    order = read_order({"force": "yes", "size": "640"}, headers)
    assert order == Order(encoding=Encoding.JPEG, is_forced=True, size_px=640, priority=Priority.BULK, timeout_s=1.5)


@pytest.mark.parametrize("text", ["", "0", "-5", "1e3", "soon", "१०", "9" * 13])
def test_a_timeout_that_is_none_counts_as_absent(text: str) -> None:
    assert read_order({}, {"x-envoy-expected-rq-timeout-ms": text}).timeout_s is None


@pytest.mark.parametrize("text", ["", "0", "-1", "64.5", "big", "1000000", "१०"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="size:"):
        read_order({"size": text}, {})


def test_an_unknown_priority_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadRequestError, match="x-priority: 'vip' is unknown; send interactive or bulk"):
        read_order({}, {"x-priority": "vip"})
