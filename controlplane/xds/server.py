"""The aggregated discovery service over gRPC: moves bytes between streams and sessions, and bounds them.

A stream is two tasks of one handler: one reads requests into the session, the other writes what the session has to say
whenever it is woken. A change wakes streams by raising a flag each; it makes no task and no message per stream.
"""

import asyncio
import datetime as dt
import socket
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import grpc
import structlog
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from controlplane.clock import Clock
from controlplane.errors import UnavailableError
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.channel import Ignored, Level, Outgoing
from controlplane.xds.delta import DeltaSession
from controlplane.xds.fleet import Fleet, Link
from controlplane.xds.kinds import Kind, ProtocolError
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.responses import Served
from controlplane.xds.session import Session
from controlplane.xds.sotw import SotwSession

log = structlog.get_logger()

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

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

STALL_LIMIT: Final = dt.timedelta(seconds=60)
"""A client that leaves endpoints, listeners or routes unanswered, or its connection unread, for longer is dropped; it
comes back with a fresh stream. Envoy answers these at once."""

WARMING_LIMIT: Final = dt.timedelta(minutes=6)
"""The same for clusters: Envoy answers when all are warm, which takes as long as the slowest first health check, and
those may have a timeout of 5 minutes."""

STALL_CHECK: Final = dt.timedelta(seconds=5)

STOP_GRACE: Final = dt.timedelta(seconds=2)

MAX_LOGGED_TYPES: Final = 50
"""Unknown type names that are logged, once each; a client can invent any number."""

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Stream:
    """One open stream: its session, and the flag that wakes its writer."""

    def __init__(self, session: Session[Any]) -> None:
        self.session = session
        self.link: Link | None = None
        self.writing_since: float | None = None
        self.end_reason = ""
        self.handed: Outgoing | None = None
        self.reported: dict[Kind, Level] = {}
        self._task = asyncio.current_task()
        self._changed = asyncio.Event()

    @property
    def settled(self) -> bool:
        """Whether the client needs nothing older than the target."""
        return self.session.settled

    def offer(self, served: Served) -> None:
        """Serve this from now on."""
        self.session.update(served)
        self._changed.set()

    def answer(self, now: float) -> bool:
        """See to what a request left to be sent; return whether that was nothing.

        Most requests acknowledge and leave nothing. So this looks by itself where the writer waits, instead of waking
        it to find that out: that halves the cost of a change.
        """
        if self.writing_since is None and not self._changed.is_set():
            self.handed = self.session.take(now=now)
            if self.handed is None:
                return True
        self._changed.set()
        return False

    def end(self, reason: str) -> None:
        """Have the stream end soon, and at once if it is stuck in a write."""
        self.end_reason = self.end_reason or reason
        self._changed.set()
        if self.writing_since is not None and self._task is not None:
            self._task.cancel()

    async def wait_changed(self) -> None:
        """Wait until there may be something to send, or the stream is to end."""
        await self._changed.wait()
        self._changed.clear()

    def stalled_since(self, now: float) -> float | None:
        """Return since when the client has been too slow to be kept, or None."""
        marks = (
            (self.writing_since, STALL_LIMIT),
            (self.session.oldest_unanswered((Kind.EDS, Kind.LDS, Kind.RDS)), STALL_LIMIT),
            (self.session.oldest_unanswered((Kind.CDS,)), WARMING_LIMIT),
        )
        late = [since for since, limit in marks if since is not None and now - since > limit.total_seconds()]
        return min(late, default=None)


class XdsServer:
    """Serves both variants of the aggregated discovery service, in plaintext.

    Args:
        cache: What is served.
        fleet: Told who is connected and what they answer.
        clock: Steady time for limits.
        metrics: Streams, and why they end.
        host: The address to bind.
        port: The port to bind; 0 lets the kernel choose, see `port` after `start`.
        setting: The name of the setting that holds the port, for the message when it is taken.
    """

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        fleet: Fleet,
        clock: Clock,
        metrics: XdsMetrics,
        host: str = "127.0.0.1",
        port: int = 18000,
        setting: str = "HUESHIFT_XDS_PORT",
    ) -> None:
        self._cache = cache
        self._fleet = fleet
        self._clock = clock
        self._metrics = metrics
        self._host = host
        self._wanted_port = port
        self._setting = setting
        self._server: grpc.aio.Server | None = None
        self._port = 0
        self._streams: dict[Stream, None] = {}
        self._unknown_types: set[str] = set()

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start`."""
        return self._port

    @property
    def stream_count(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def start(self) -> None:
        """Bind the port and accept streams; `stop` must follow. No stream is answered before a first snapshot.

        Raises:
            UnavailableError: The port is taken.
        """
        self._check_port()
        server = grpc.aio.server(options=OPTIONS)
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(self._serve_sotw),
            "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(self._serve_delta),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._port = server.add_insecure_port(f"{_bracketed(self._host)}:{self._wanted_port}")
        await server.start()
        self._server = server
        log.info("xds.started", host=self._host, port=self._port)

    async def run(self) -> None:
        """Serve until cancelled, then stop; starts the server unless that was done."""
        if self._server is None:
            await self.start()
        try:
            while True:
                await self._clock.sleep(STALL_CHECK)
                self.drop_stalled()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End all streams and free the port; Envoys keep what they have and look for another server."""
        server, self._server = self._server, None
        if server is None:
            return
        for stream in tuple(self._streams):
            stream.end("stopping")
        await server.stop(STOP_GRACE.total_seconds())
        log.info("xds.stopped")

    def drop_stalled(self) -> None:
        """End the streams whose clients are too slow; `run` does it every few seconds."""
        now = self._clock.steady()
        for stream in tuple(self._streams):
            since = stream.stalled_since(now)
            if since is not None and not stream.end_reason:
                node = stream.session.node
                log.warning("stream.stalled", node=node.id if node else "", seconds=round(now - since, 1))
                stream.end("stalled")

    # -- one stream ----------------------------------------------------------------------------------------------------

    async def _serve_sotw(self, _requests: object, context: Context) -> None:
        await self._serve(SotwSession(), discovery_pb2.DiscoveryRequest.FromString, context)

    async def _serve_delta(self, _requests: object, context: Context) -> None:
        await self._serve(DeltaSession(), discovery_pb2.DeltaDiscoveryRequest.FromString, context)

    async def _serve(self, session: Session[Any], parse: Callable[[bytes], Any], context: Context) -> None:
        stream = Stream(session)
        self._streams[stream] = None
        self._cache.register(stream)
        streams = self._metrics.streams.labels(session.variant)
        streams.inc()
        try:
            await self._exchange(stream, parse, context)
        except* (ProtocolError, DecodeError) as group:
            stream.end_reason = "protocol"
            words = str(_first(group)) if group.subgroup(ProtocolError) else "the request is not readable"
            log.warning("stream.refused", node=session.node.id if session.node else "", words=words)
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            context.set_details(words)
        except* Exception:  # one client's stream must not take the others with it
            stream.end_reason = "bug"
            log.exception("stream.crashed", node=session.node.id if session.node else "")
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("a bug of the control plane ended the stream; see its log")
        finally:
            streams.dec()
            self._metrics.closed.labels(stream.end_reason or "client").inc()
            self._cache.unregister(stream)
            del self._streams[stream]
            if stream.link is not None:
                self._fleet.disconnected(stream.link)

    async def _exchange(self, stream: Stream, parse: Callable[[bytes], Any], context: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read(stream, parse, context), name="xds-read")
            await self._write(stream, context)
            reader.cancel()
        if stream.end_reason in ("stalled", "stopping"):
            context.set_code(grpc.StatusCode.UNAVAILABLE)
            context.set_details(f"{stream.end_reason}; connect again")

    async def _read(self, stream: Stream, parse: Callable[[bytes], Any], context: Context) -> None:
        session = stream.session
        # grpc.aio ends a stream with an object of its own instead of bytes, which its types do not say.
        while isinstance(data := await context.read(), bytes):
            now = self._clock.steady()
            reaction = session.receive(parse(data), now=now)
            if stream.link is None and session.node is not None:
                stream.link = self._fleet.connected(session.node, variant=session.variant)
            if isinstance(reaction, Ignored):
                self._log_unknown(reaction.type_url)
            elif stream.link is not None:
                self._fleet.reacted(stream.link, reaction)
                if stream.answer(now):
                    self._report(stream)
        stream.end("client")

    async def _write(self, stream: Stream, context: Context) -> None:
        while not stream.end_reason:
            await stream.wait_changed()
            await self._flush(stream, context)
            self._report(stream)

    async def _flush(self, stream: Stream, context: Context) -> None:
        while not stream.end_reason:
            now = self._clock.steady()
            outgoing, stream.handed = stream.handed or stream.session.take(now=now), None
            if outgoing is None:
                return
            self._metrics.pushes[outgoing.kind].inc()
            stream.writing_since = now
            await context.write(outgoing.data)
            stream.writing_since = None

    def _report(self, stream: Stream) -> None:
        if stream.link is None:
            return
        for kind, level in stream.session.levels():
            if stream.reported.get(kind) is not level:
                stream.reported[kind] = level
                self._fleet.moved(stream.link, kind, level)

    def _log_unknown(self, type_url: str) -> None:
        if type_url not in self._unknown_types and len(self._unknown_types) < MAX_LOGGED_TYPES:
            self._unknown_types.add(type_url)
            log.info("type.unknown", type_url=type_url[:200])

    def _check_port(self) -> None:
        """Say what is wrong with the address before grpc does, which would say less and leave a server behind."""
        if self._wanted_port == 0:
            return
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            socket.create_server((self._host, self._wanted_port), family=family).close()
        except OSError as exc:
            words = exc.strerror or str(exc)
            raise UnavailableError(
                f"{self._setting}: {self._host}:{self._wanted_port} cannot be bound ({words}); stop the process that "
                f"listens there, or set {self._setting} to a free port"
            ) from exc


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
