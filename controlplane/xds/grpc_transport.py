"""Streams over gRPC's own server: the reference transport, which only moves bytes.

A stream is two tasks of one handler: one reads requests into it, the other writes what it has to say when woken.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import grpc
import structlog

from controlplane.tls.channel import ChannelTls
from controlplane.tls.identity import Identities, identities_of
from controlplane.xds.streams import METHODS, Method, Reason, Stream, Streams
from controlplane.xds.transport import STATUS, bind_port, taken

log = structlog.get_logger()

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # or a second server on the same port would steal half of the streams without a word
    # A half-open peer is found by our own pings; Envoy's pings (5 s) must not be taken for an attack.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # the one that counts for a peer that hangs; a minute by default
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    # With the defaults (1,000 and 3,000) a fleet that returns at once sees its streams cancelled.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),  # an Envoy's first request is 61 kB, its names come on top
    ("grpc.max_send_message_length", -1),  # a state-of-the-world answer cannot be split
    ("grpc.enable_channelz", 0),
    ("grpc.http2.bdp_probe", 0),
)

STOP_GRACE: Final = dt.timedelta(seconds=2)

# In quotes: these take type arguments for the type checker only.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class GrpcTransport:
    """A gRPC server.

    Args:
        host: The address to bind.
        port: The port to bind; 0 lets the kernel choose, see `port` after `start`.
        setting: The name of the setting that holds the port, for the message when it is taken.
        tls: Mutual TLS; without it all is plaintext, and whoever reaches the port may be any node.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 18000,
        setting: str = "HUESHIFT_XDS_PORT",
        tls: ChannelTls | None = None,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._setting = setting
        self._tls = tls
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start`."""
        return self._port

    async def start(self, streams: Streams) -> None:
        """Bind and accept calls, each of which becomes a stream of *streams*.

        Raises:
            UnavailableError: The port is taken.
        """
        self._check_port()
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((_Handlers(streams, verified=self._tls is not None),))
        target = f"{_bracketed(self._host)}:{self._wanted_port}"
        if self._tls is None:
            self._port = server.add_insecure_port(target)
        else:
            self._port = server.add_secure_port(target, self._tls.credentials())
        await server.start()
        self._server = server
        log.info("xds.started", host=self._host, port=self._port, mtls=self._tls is not None)

    async def stop(self) -> None:
        """Free the port and end what is still open after a moment; clients look for another server."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(STOP_GRACE.total_seconds())
            log.info("xds.stopped")

    def tick(self) -> None:
        """Nothing: gRPC looks after silent clients by itself, see `OPTIONS`."""

    def _check_port(self) -> None:
        """Say what is wrong with the address before grpc does, which would say less and leave a server behind."""
        if self._wanted_port == 0:
            return
        with bind_port(self._host, self._wanted_port, self._setting) as trial:
            try:
                trial.listen()
            except OSError as exc:
                raise taken(self._host, self._wanted_port, self._setting, exc) from exc


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a call by its path."""

    def __init__(self, streams: Streams, *, verified: bool) -> None:
        self._handlers: dict[str, Handler] = {
            path: grpc.stream_stream_rpc_method_handler(_behaviour(streams, method, verified=verified))
            for path, method in METHODS.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        return self._handlers.get(handler_call_details.method)


def _behaviour(streams: Streams, method: Method, *, verified: bool) -> Callable[[object, Context], Awaitable[None]]:
    async def serve(_requests: object, context: Context) -> None:
        identities = identities_of(context.auth_context()) if verified else None
        await _Call(context, identities).serve(streams, method)

    return serve


class _Call:
    """One call: the tasks that move the bytes of one stream."""

    def __init__(self, context: Context, identities: Identities | None) -> None:
        self._context = context
        self._identities = identities
        self._task = asyncio.current_task()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    def cut(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def serve(self, streams: Streams, method: Method) -> None:
        stream = streams.open(method, self, identities=self._identities)
        try:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(stream), name="xds-read")
                await self._write(stream)
                reader.cancel()
        except* Exception:  # one client's stream must not take the others with it
            log.exception("stream.crashed", node=stream.node_id)
            stream.crash()
        finally:
            stream.close()
        if stream.ending is not None:
            self._context.set_code(STATUS[stream.ending.reason])
            self._context.set_details(stream.ending.words)

    async def _read(self, stream: Stream) -> None:
        # grpc.aio ends a stream with an object of its own instead of bytes, which its types do not say.
        while isinstance(data := await self._context.read(), bytes):
            stream.receive(data)
        stream.end(Reason.CLIENT)

    async def _write(self, stream: Stream) -> None:
        while stream.ending is None:
            data = stream.take()
            if data is not None:
                await self._context.write(data)
                stream.written()
                continue
            await self._woken.wait()
            self._woken.clear()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
