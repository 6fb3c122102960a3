import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.lab.http1 import Framer, FramingError, Message, header

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Version: v2\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 503 Nope\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\ntrailer: 1\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "status", "body"), [(PLAIN, 200, b"hello"), (CHUNKED, 503, b"abcde"), (EMPTY, 204, b"")]
)
def test_a_response_is_complete_however_it_is_delimited(raw: bytes, status: int, body: bytes) -> None:
    framer = Framer(of_requests=False)
    message = framer.feed(raw)
    assert message is not None
    assert (message.status, message.body) == (status, body)
    assert framer.is_empty


@given(cuts=st.lists(st.integers(0, len(PLAIN + CHUNKED + EMPTY)), max_size=8))
def test_messages_are_the_same_wherever_the_network_cuts_them(cuts: list[int]) -> None:
    stream = PLAIN + CHUNKED + EMPTY
    edges = [0, *sorted(cuts), len(stream)]
    framer = Framer(of_requests=False)
    found: list[Message] = []
    for low, high in itertools.pairwise(edges):
        message = framer.feed(stream[low:high])
        while message is not None:
            found.append(message)
            message = framer.feed(b"")
    assert [message.body for message in found] == [b"hello", b"abcde", b""]


def test_an_interim_response_is_skipped() -> None:
    message = Framer(of_requests=False).feed(b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN)
    assert message is not None
    assert message.status == 200


def test_a_request_without_a_length_has_no_body() -> None:
    framer = Framer(of_requests=True)
    message = framer.feed(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /two")
    assert message is not None
    assert message.body == b""
    assert not framer.is_empty


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 xyz\r\n\r\n",
    ],
)
def test_what_has_no_end_is_refused(raw: bytes) -> None:
    with pytest.raises(FramingError):
        Framer(of_requests=False).feed(raw)


def test_a_header_is_found_only_by_its_whole_name() -> None:
    head = b"http/1.1 200 ok\r\nax-version: no\r\nx-version:  v2 \r\nlast: 1"
    assert header(head, b"x-version") == b"v2"
    assert header(head, b"last") == b"1"
    assert header(head, b"version") is None
