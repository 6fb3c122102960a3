import asyncio
import contextlib

import pytest

from tests.stepping import SteppedClock, get_loop, pass_time, pass_until, settle_until, stepped


@stepped
async def test_time_stands_still_while_all_settles_and_then_goes_to_the_next_timer() -> None:
    loop = get_loop()
    rung: list[str] = []
    began_s = loop.time()
    loop.call_later(5, rung.append, "five")
    loop.call_later(7, rung.append, "seven")
    await loop.settle()
    assert (loop.time() - began_s, rung) == (0, [])
    await loop.step()
    assert (loop.time() - began_s, rung) == (5, ["five"])
    await pass_time(1)
    assert (loop.time() - began_s, rung) == (6, ["five"])
    await pass_until(lambda: len(rung) == 2, "both")
    assert SteppedClock().read_s() - began_s == 7


@stepped
async def test_what_one_end_has_written_is_read_before_all_is_at_rest() -> None:
    got = bytearray()

    class Reader(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            got.extend(data)

    port, end = get_loop().listen(0, Reader)
    transport, _ = await get_loop().create_connection(asyncio.Protocol, "anywhere.example", port)
    transport.write(b"x" * 10_000_000)
    await settle_until(lambda: len(got) == 10_000_000, "all bytes")
    end()
    with pytest.raises(ConnectionRefusedError):
        await get_loop().create_connection(asyncio.Protocol, "anywhere.example", port)
    transport.close()


@stepped
async def test_a_thread_is_done_before_its_caller_goes_on() -> None:
    done: list[str] = []
    asked = asyncio.ensure_future(asyncio.to_thread(done.append, "here"))
    await settle_until(asked.done, "the thread")
    assert done == ["here"]


@stepped
async def test_a_wait_in_vain_fails_at_once() -> None:
    with pytest.raises(AssertionError, match="all is at rest, without rain"):
        await settle_until(lambda: False, "rain")


def test_a_wait_that_no_timer_ends_is_an_error() -> None:
    @stepped
    async def wait() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="this would last for ever"):
        wait()
