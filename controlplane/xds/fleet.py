"""What each Envoy runs, as rows: the newest state of each node, written in batches by one loop.

A stream only marks its node as changed; a hundred changes of a node before the next write are one row. So the work
waiting is bounded by the number of nodes, and a database that is away delays rows, never a stream.
"""

import datetime as dt
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.ports import EnvoyAnswer, NodeStatus, PastRefusal, TypeStatus
from controlplane.wake import Wake
from controlplane.xds.channel import Acked, Ignored, Level, Nacked, Node, Reaction, Stale, Subscribed
from controlplane.xds.kinds import Kind
from controlplane.xds.metrics import PROXY_STATES, XdsMetrics

log = structlog.get_logger()

BATCH: Final = 1_000
"""Nodes per write: one transaction should not keep other writers waiting for long."""

LULL_PER_NODE: Final = dt.timedelta(microseconds=50)
MAX_LULL: Final = dt.timedelta(milliseconds=250)
MAX_LULLS: Final = 8
"""The answers to one change come one by one, and whoever waits for them reads all rows after each write. So a write
waits until no answer came for this long per connected node, a few times at most: a small fleet notices nothing, and a
large one is written and read once per change instead of ten times."""

MOMENT_S: Final = 0.1
"""Acknowledgements this close together bear the same moment, and so make the same rows, which are encoded once."""

MAX_REMEMBERED: Final = 1_024

RETRY: Final = dt.timedelta(milliseconds=500)
"""Pause after a write that failed."""

IDLE: Final = dt.timedelta(seconds=1)
"""How late a row may say that something was sent. The answer to it, which others wait for, is written at once."""

AckHook: TypeAlias = Callable[[str, str, str, float], None]
"""Called with node id, short type name, version and steady seconds at every acknowledgement."""


class NodeRecorder(Protocol):
    """What is needed here of `controlplane.ports.FleetStore`."""

    async def record_nodes(self, nodes: Sequence[NodeStatus], *, answers: Sequence[EnvoyAnswer] = ()) -> None:
        """Insert or replace the rows of these nodes, and add their *answers* to the log."""


MAX_NAMED: Final = 20
"""Nodes that an answer of many names."""
MAX_TOLD: Final = 200
"""Different answers that wait to be written: while the database is away, what comes beyond is in the rows alone."""


class Answers:
    """What clients said since the last write, told once for all that said the same."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str, str | None], tuple[list[str], int, dt.datetime]] = {}

    def add(self, node: str, kind: str, version: str, *, words: str | None, at: dt.datetime) -> None:
        """Note that *node* acknowledged a version, or (*words*) refused it."""
        key = (kind, version, words)
        nodes, count, _ = self._told.get(key, ([], 0, at))
        if not count and len(self._told) >= MAX_TOLD:
            return
        if len(nodes) < MAX_NAMED:
            nodes.append(node)
        self._told[key] = (nodes, count + 1, at)

    def take(self) -> tuple[EnvoyAnswer, ...]:
        """Return them all, and forget them."""
        told, self._told = self._told, {}
        return tuple(
            EnvoyAnswer(kind, version, words is None, tuple(nodes), count, at, words or "")
            for (kind, version, words), (nodes, count, at) in told.items()
        )

    def put_back(self, answers: Sequence[EnvoyAnswer]) -> None:
        """Take back what could not be written."""
        mine, self._told = self._told, {}
        for each in answers:
            key = (each.kind, each.version, None if each.acked else each.words)
            self._told[key] = (list(each.nodes), each.count, each.at)
        for key, (nodes, count, at) in mine.items():
            before, earlier, _ = self._told.get(key, ([], 0, at))
            self._told[key] = ((before + nodes)[:MAX_NAMED], earlier + count, at)


class Link:
    """One stream as the fleet sees it.

    Args:
        node: Who is at the other end.
        variant: ``sotw`` or ``delta``.
        connected_at: When its first request came.
    """

    def __init__(self, node: Node, *, variant: str, connected_at: dt.datetime) -> None:
        self.node = node
        self.variant = variant
        self.connected_at = connected_at
        self.types: dict[str, TypeStatus] = {}


class Fleet:
    """Collects what sessions report and writes it to the store.

    Args:
        store: Where the rows go.
        clock: Stamps connections and acknowledgements.
        replica: The name of this process in the rows.
        metrics: Acknowledgement times, refusals.
        on_ack: For benches that time acknowledgements without a database.
    """

    def __init__(
        self, *, store: NodeRecorder, clock: Clock, replica: str, metrics: XdsMetrics, on_ack: AckHook | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._replica = replica
        self._metrics = metrics
        self._on_ack = on_ack
        self._wake = Wake()
        self._links: dict[str, list[Link]] = {}
        self._dirty: dict[str, None] = {}
        self._gone: dict[str, NodeStatus] = {}
        for state in PROXY_STATES:  # counted when someone looks: a change of a thousand streams costs nothing here
            metrics.proxies.labels(state).set_function(functools.partial(self._count, state))
        self._moment = clock.now()
        self._moment_until = -1.0
        self._answers = 0
        self._told = Answers()
        self._statuses: dict[Hashable, TypeStatus] = {}

    # -- what streams report; nothing here blocks ----------------------------------------------------------------------

    def connected(self, node: Node, *, variant: str) -> Link:
        """Note that *node* opened a stream; of several, the newest one counts."""
        link = Link(node, variant=variant, connected_at=self._clock.now())
        links = self._links.setdefault(node.id, [])
        if links:
            self._metrics.superseded.inc()
            log.warning("stream.superseded", node=node.id, streams=len(links) + 1)
        links.append(link)
        self._mark(node.id)
        return link

    def disconnected(self, link: Link) -> None:
        """Note that a stream ended; an older one of the same node counts again."""
        links = self._links[link.node.id]
        links.remove(link)
        if not links:
            del self._links[link.node.id]
            self._gone[link.node.id] = self._status(link, self._clock.now())
        self._mark(link.node.id)

    def reacted(self, link: Link, reaction: Reaction) -> None:
        """Note what a client said of a response."""
        match reaction:
            case Acked(kind=kind, version=version, waited_s=waited_s):
                self._told.add(link.node.id, kind.value, version, words=None, at=self._now())
                self._metrics.push_to_ack[kind].observe(waited_s)
                if self._on_ack is not None:
                    self._on_ack(link.node.id, kind.value, version, self._clock.steady())
            case Nacked(kind=kind, version=version, words=words):
                self._told.add(link.node.id, kind.value, version, words=words, at=self._now())
                self._metrics.nacks[kind].inc()
                log.warning("config.refused", node=link.node.id, type=kind.value, version=version, words=words)
            case Subscribed() | Stale() | Ignored():
                pass

    def moved(self, link: Link, kind: Kind, level: Level) -> None:
        """Note how far the client is with *kind* now."""
        before = link.types.get(kind.value)
        acked_at = before.acked_at if before is not None and before.acked == level.acked else None
        if level.acked and acked_at is None:
            acked_at = self._now()
        nacked_at = before.nacked_at if before is not None and before.nacked == level.nacked else None
        if level.nacked and nacked_at is None:
            nacked_at = self._clock.now()
        refusal = before.last_refusal if before is not None else None
        if nacked_at is not None and level.nacked:
            refusal = PastRefusal(level.nacked, level.words, nacked_at)
        after = self._shared(level, acked_at, nacked_at if level.nacked else None, refusal)
        if after is before:
            return
        link.types[kind.value] = after
        self._dirty[link.node.id] = None
        if before is None or (after.acked, after.nacked) != (before.acked, before.nacked):
            self._answers += 1
            self._wake.set()

    def connected_ids(self) -> frozenset[str]:
        """Return the ids of the Envoys that have a stream open here; other clients send no telemetry."""
        return frozenset(node for node, links in self._links.items() if links[-1].node.is_envoy)

    def _count(self, state: str) -> int:
        return sum(_state(links[-1].types.values()) == state for links in tuple(self._links.values()))

    # -- the loop that writes ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what changed, soon after it changed, for ever."""
        while True:
            await self._wake.wait(IDLE)
            if not self._dirty:
                continue
            await self._wait_lull()
            try:
                for _ in range(0, len(self._dirty), BATCH):
                    await self.write()
            except ControlPlaneError:
                log.warning("fleet.write_failed", nodes=len(self._dirty), exc_info=True)
                await self._clock.sleep(RETRY)
                self._wake.set()

    async def _wait_lull(self) -> None:
        lull = min(LULL_PER_NODE * len(self._links), MAX_LULL)
        for _ in range(MAX_LULLS):
            seen = self._answers
            await self._clock.sleep(lull)
            if self._answers == seen:
                return

    async def write(self) -> None:
        """Write one batch of changed nodes; they stay marked if that fails.

        Raises:
            UnavailableError: The store does not answer.
        """
        batch, answers = dict(self._take_batch()), self._told.take()
        try:
            await self._store.record_nodes(tuple(batch.values()), answers=answers)
        except BaseException:
            self._told.put_back(answers)
            for node, status in batch.items():
                self._dirty[node] = None
                if status.disconnected_at is not None:
                    self._gone.setdefault(node, status)
            raise

    def _take_batch(self) -> Iterator[tuple[str, NodeStatus]]:
        for node in tuple(itertools.islice(self._dirty, BATCH)):
            del self._dirty[node]
            gone = self._gone.pop(node, None)
            if links := self._links.get(node):
                yield node, self._status(links[-1], None)
            elif gone is not None:
                yield node, gone

    def _status(self, link: Link, disconnected_at: dt.datetime | None) -> NodeStatus:
        return NodeStatus(
            node=link.node.id,
            cluster=link.node.cluster,
            replica=self._replica,
            variant=link.variant,
            connected_at=link.connected_at,
            disconnected_at=disconnected_at,
            types=dict(link.types),
            group=link.node.group,
            user_agent=link.node.user_agent,
            is_envoy=link.node.is_envoy,
        )

    def _now(self) -> dt.datetime:
        """Return the present moment, give or take `MOMENT_S`."""
        steady = self._clock.steady()
        if steady >= self._moment_until:
            self._moment, self._moment_until = self._clock.now(), steady + MOMENT_S
        return self._moment

    def _shared(
        self,
        level: Level,
        acked_at: dt.datetime | None,
        nacked_at: dt.datetime | None,
        last_refusal: PastRefusal | None,
    ) -> TypeStatus:
        """Return the one object that says this: in a fleet, most nodes are at the same level."""
        key = (level, acked_at, nacked_at, last_refusal)
        found = self._statuses.get(key)
        if found is None:
            if len(self._statuses) >= MAX_REMEMBERED:
                self._statuses.clear()
            found = self._statuses[key] = TypeStatus(
                sent=level.sent,
                acked=level.acked,
                acked_at=acked_at,
                nacked=level.nacked,
                words=level.words,
                nacked_at=nacked_at,
                last_refusal=last_refusal,
            )
        return found

    def _mark(self, node: str) -> None:
        self._dirty[node] = None
        self._wake.set()


def _state(types: Iterable[TypeStatus]) -> str:
    waiting = nacked = False
    for status in types:
        nacked = nacked or bool(status.nacked and status.nacked == status.sent)
        waiting = waiting or status.acked != status.sent
    return "nacked" if nacked else "waiting" if waiting else "synced"
