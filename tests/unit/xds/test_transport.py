"""The sockets that everything is served on."""

import asyncio
import contextlib
import socket

import pytest

from controlplane.xds.transport import bind_port


@pytest.mark.enable_socket
async def test_what_is_served_on_a_bound_port_does_not_wait_for_acknowledgements() -> None:
    accepted: asyncio.Queue[int] = asyncio.Queue()

    async def meet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.put_nowait(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bind_port("127.0.0.1", 0, "HUESHIFT_API_PORT") as bound:
        async with await asyncio.start_server(meet, sock=bound):
            _, writer = await asyncio.open_connection(*bound.getsockname())
            with contextlib.closing(writer):
                assert await accepted.get()
