"""All open discovery streams, whatever carries them: their sessions, what wakes them, their limits and how they end.

A transport opens a `Stream` per call, feeds it what the client sends, and writes what it hands out; nothing here knows
of sockets or tasks. A change wakes streams by one call each; it makes no task and no message per stream, and a stream
holds at most one message that its transport has not taken, so a slow client costs no memory.
"""

import dataclasses
import datetime as dt
import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

import structlog
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from controlplane.clock import Clock
from controlplane.tls.identity import Identities, IdentityError, check_identity
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.channel import Ignored, Level, Nacked, Outgoing
from controlplane.xds.conversations import Clients, Conversation, DeltaConversation, SotwConversation, Wake
from controlplane.xds.delta import DeltaSession
from controlplane.xds.fleet import Fleet, Link
from controlplane.xds.kinds import Kind, ProtocolError
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.responses import Served
from controlplane.xds.session import Session, identify
from controlplane.xds.sotw import SotwSession

log = structlog.get_logger()

STALL_LIMIT: Final = dt.timedelta(seconds=60)
"""A client that leaves anything but clusters unanswered, or its connection unread, for longer is dropped; it
comes back with a fresh stream. Envoy answers these at once."""

WARMING_LIMIT: Final = dt.timedelta(minutes=6)
"""The same for clusters: Envoy answers when all are warm, which takes as long as the slowest first health check, and
those may have a timeout of 5 minutes."""

MAX_LOGGED_TYPES: Final = 50
"""Unknown type names that are logged, once each; a client can invent any number."""


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """A streaming call that is served: how its sessions are made and how its requests are read.

    A session is made with those that it may belong together with, and with what wakes its stream.
    """

    make_session: Callable[[Clients, Wake], Session[Any]]
    parse: Callable[[bytes], Any]


ADS: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

PER_TYPE: Final = {
    Kind.CDS: ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters"),
    Kind.EDS: ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints"),
    Kind.LDS: ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners"),
    Kind.RDS: ("envoy.service.route.v3.RouteDiscoveryService", "Routes"),
    Kind.SDS: ("envoy.service.secret.v3.SecretDiscoveryService", "Secrets"),
}
"""The services of clients without ADS, and what their two calls are about."""


def _methods() -> Iterator[tuple[str, Method]]:
    sotw, delta = discovery_pb2.DiscoveryRequest.FromString, discovery_pb2.DeltaDiscoveryRequest.FromString
    yield f"/{ADS}/StreamAggregatedResources", Method(lambda _, __: SotwSession(), sotw)
    yield f"/{ADS}/DeltaAggregatedResources", Method(lambda _, __: DeltaSession(), delta)
    for kind, (service, what) in PER_TYPE.items():
        yield f"/{service}/Stream{what}", Method(functools.partial(SotwConversation, kind), sotw)
        yield f"/{service}/Delta{what}", Method(functools.partial(DeltaConversation, kind), delta)


METHODS: Final[Mapping[str, Method]] = dict(_methods())
"""Every call that a transport must accept, by its path."""


class Reason(enum.Enum):
    """Why a stream ended, by the word that the metrics use."""

    CLIENT = "client"
    STALLED = "stalled"
    PROTOCOL = "protocol"
    IDENTITY = "identity"
    STOPPING = "stopping"
    BUG = "bug"


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How a stream is to end, and the words for its client."""

    reason: Reason
    words: str = ""


class Wire(Protocol):
    """One stream's call, as its transport shows it to the stream."""

    def wake(self) -> None:
        """See soon to what `Stream.take` and `Stream.ending` say; must neither block nor raise."""

    def cut(self) -> None:
        """Give up the write that is under way: the stream is to end, and the client does not read."""


class Transport(Protocol):
    """What carries streams: accepts calls to `METHODS` and moves their bytes."""

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start`."""

    async def start(self, streams: "Streams") -> None:
        """Bind and accept calls, each of which becomes a stream of *streams*.

        Raises:
            UnavailableError: The port is taken.
        """

    async def stop(self) -> None:
        """Free the port and end what is still open after a moment; clients look for another server."""

    def tick(self) -> None:
        """See to clients that are silent; called every few seconds."""


class Stream:
    """One open stream, to be driven by its transport.

    Args:
        streams: Where it belongs.
        method: What was called.
        wire: The transport's end.
        identities: Whom the connection has proved to come from; None without TLS.
    """

    def __init__(self, streams: "Streams", method: Method, wire: Wire, identities: Identities | None) -> None:
        self.session = method.make_session(streams.clients, self._wake)
        self.identities = identities
        self.ending: Ending | None = None
        self.writing_since: float | None = None
        self._streams = streams
        self._parse = method.parse
        self._wire = wire
        self._link: Link | None = None
        self._handed: Outgoing | None = None
        self._reported: dict[Kind, Level] = {}
        self._woken = False

    # -- for the transport ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take in one request; whatever is wrong with it ends this stream and no other."""
        if self.ending is not None:
            return
        try:
            self._receive(data)
        except ProtocolError as exc:
            self._refuse(Reason.PROTOCOL, str(exc))
        except DecodeError:
            self._refuse(Reason.PROTOCOL, "the request is not readable")
        except IdentityError as exc:
            self._refuse(Reason.IDENTITY, str(exc))
        except Exception:  # one client's stream must not take the others with it
            log.exception("stream.crashed", node=self.node_id)
            self.crash()

    def take(self) -> bytes | None:
        """Return what to write now; after writing it, call `written` and ask again. On None, wait to be woken."""
        self._woken = False
        if self.ending is not None:
            return None
        try:
            return self._take()
        except Exception:  # as in `receive`
            log.exception("stream.crashed", node=self.node_id)
            self.crash()
            return None

    def written(self) -> None:
        """Note that the connection has taken what `take` returned last."""
        self.writing_since = None

    def end(self, reason: Reason, words: str = "") -> None:
        """Have the stream end soon; the first reason stands.

        A write that is under way is cut, but for a client that only has no more to say: it may be reading.
        """
        self.ending = self.ending or Ending(reason, words)
        self._wire.wake()
        if self.writing_since is not None and reason is not Reason.CLIENT:
            self._wire.cut()

    def crash(self) -> None:
        """End the stream because of a bug, which has been logged."""
        self.end(Reason.BUG, "a bug of the control plane ended the stream; see its log")

    def close(self) -> None:
        """Forget the stream, which is over, whoever ended it, and its transport's end: both are then freed at once."""
        self._wire = _NOWHERE
        self._streams.closed(self, self._link)

    # -- for the cache and the limits ----------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """Who the client says it is; "" before its first request."""
        node = self.session.node
        return node.id if node else ""

    @property
    def settled(self) -> bool:
        """Whether the client needs nothing older than the target."""
        return self.session.settled

    def offer(self, served: Served) -> None:
        """Serve this from now on."""
        self.session.update(served)
        self._wake()

    def stalled_since(self, now: float) -> float | None:
        """Return since when the client has been too slow to be kept, or None."""
        marks = (
            (self.writing_since, STALL_LIMIT),
            (self.session.oldest_unanswered((Kind.EDS, Kind.LDS, Kind.RDS, Kind.SDS)), STALL_LIMIT),
            (self.session.oldest_unanswered((Kind.CDS,)), WARMING_LIMIT),
        )
        late = [since for since, limit in marks if since is not None and now - since > limit.total_seconds()]
        return min(late, default=None)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        session = self.session
        now = self._streams.clock.steady()
        request = self._parse(data)
        if self._link is None:
            check_identity(identify(request.node).id, self.identities)
        reaction = session.receive(request, now=now)
        if self._link is None:
            self._admit()
        if isinstance(reaction, Nacked):
            self._streams.cache.refused(self, reaction)
        if isinstance(reaction, Ignored):
            self._streams.log_unknown(reaction.type_url)
        elif self._link is not None:
            self._streams.fleet.reacted(self._link, reaction)
            self._answer(now)

    def _admit(self) -> None:
        """Let the client in: its first request has said who it is."""
        session = self.session
        if session.node is None:
            return
        if isinstance(session, Conversation):
            self._link = session.link
        else:
            self._link = self._streams.fleet.connected(session.node, variant=session.variant)
        self._streams.cache.register(self, session.node)

    def _answer(self, now: float) -> None:
        """See to what a request left to be sent.

        Most requests acknowledge and leave nothing. So this looks by itself where the transport waits, instead of
        waking it to find that out: that halves the cost of a change.
        """
        if self.writing_since is None and not self._woken:
            self._handed = self.session.take(now=now)
            if self._handed is None:
                self._report()
                return
        self._wake()

    def _take(self) -> bytes | None:
        now = self._streams.clock.steady()
        outgoing, self._handed = self._handed or self.session.take(now=now), None
        if outgoing is None:
            self._report()
            return None
        self._streams.metrics.pushes[outgoing.kind].inc()
        self.writing_since = now
        return outgoing.data

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wire.wake()

    def _report(self) -> None:
        if self._link is None:
            return
        for kind, level in self.session.levels():
            if self._reported.get(kind) is not level:
                self._reported[kind] = level
                self._streams.fleet.moved(self._link, kind, level)

    def _refuse(self, reason: Reason, words: str) -> None:
        log.warning("stream.refused", node=self.node_id, reason=reason.value, words=words)
        self.end(reason, words)


class _Nowhere:
    """The end of a transport that has let go of its stream."""

    def wake(self) -> None:
        pass

    def cut(self) -> None:
        pass


_NOWHERE: Final = _Nowhere()


class Streams:
    """The open streams of a process.

    Args:
        cache: What is served.
        fleet: Told who is connected and what they answer.
        clock: Steady time for limits.
        metrics: Streams, pushes, and why streams end.
    """

    def __init__(self, *, cache: SnapshotCache, fleet: Fleet, clock: Clock, metrics: XdsMetrics) -> None:
        self.fleet = fleet
        self.clock = clock
        self.metrics = metrics
        self.clients = Clients(fleet)
        self.cache = cache
        self._open: dict[Stream, None] = {}
        self._unknown_types: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, method: Method, wire: Wire, *, identities: Identities | None = None) -> Stream:
        """Return a new stream; once its client has said who it is, it is offered what is served until its `close`."""
        stream = Stream(self, method, wire, identities)
        self._open[stream] = None
        self.metrics.streams.labels(stream.session.variant).inc()
        return stream

    def closed(self, stream: Stream, link: Link | None) -> None:
        """Forget *stream*; once is enough."""
        if stream not in self._open:
            return
        del self._open[stream]
        self.cache.unregister(stream)
        self.metrics.streams.labels(stream.session.variant).dec()
        self.metrics.closed.labels((stream.ending.reason if stream.ending else Reason.CLIENT).value).inc()
        if isinstance(stream.session, Conversation):
            stream.session.leave()
        elif link is not None:
            self.fleet.disconnected(link)

    def end_all(self) -> None:
        """Have every stream end because the process does; clients look for another server."""
        for stream in tuple(self._open):
            stream.end(Reason.STOPPING, "stopping; connect again")

    def drop_stalled(self) -> None:
        """End the streams whose clients are too slow."""
        now = self.clock.steady()
        for stream in tuple(self._open):
            since = stream.stalled_since(now)
            if since is not None:
                log.warning("stream.stalled", node=stream.node_id, seconds=round(now - since, 1))
                stream.end(Reason.STALLED, "stalled; connect again")

    def log_unknown(self, type_url: str) -> None:
        """Log the name of a type that is not served, once."""
        if type_url not in self._unknown_types and len(self._unknown_types) < MAX_LOGGED_TYPES:
            self._unknown_types.add(type_url)
            log.info("type.unknown", type_url=type_url[:200])
