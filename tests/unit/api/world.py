"""A control plane without sockets: the real API on the real store in a file of its own, and a clock that tests move."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import pathlib
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from controlplane.api.access import Parts
from controlplane.api.app import create_app
from controlplane.auth.attempts import Attempts
from controlplane.auth.denials import Denials
from controlplane.auth.keys import KeyRing
from controlplane.auth.parts import AuthParts
from controlplane.auth.sessions import SessionDesk
from controlplane.auth.shares import ShareDesk
from controlplane.blobs.directory import DirectoryBlobs
from controlplane.broker.rabbitmq import RabbitQueue
from controlplane.clock import Clock
from controlplane.controller.inspection import Inspector
from controlplane.controller.observer import Clusters, judge_ticks
from controlplane.events.feed import EventFeed
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.feed import JobFeed
from controlplane.ports import ClusterHealth, Occurrence, Rollout, TelemetryBatch, TickRead
from controlplane.rollout.model import Baking, Breach, RollbackCause, RolledBack, State
from controlplane.store import SqlStore, open_store, schema
from controlplane.wake import Topic, Wake, WakeBoard
from controlplane.xds.reading import SnapshotReader
from tests import builders
from tests.job_builders import FakePhotos, make_callback_desk, make_notify_desk, make_overseer
from tests.unit.api.documented import check_documented


class ManualClock:
    """A clock that stands still unless someone sleeps on it or moves it."""

    def __init__(self) -> None:
        self._passed = dt.timedelta(0)

    def now(self) -> dt.datetime:
        return builders.NOW + self._passed

    def steady(self) -> float:
        return self._passed.total_seconds()

    async def sleep(self, delay: dt.timedelta) -> None:
        self._passed += delay
        await asyncio.sleep(0)  # noqa: TID251 - lets others run; takes no time

    def move(self, delay: dt.timedelta) -> None:
        self._passed += delay


@dataclasses.dataclass
class World:
    """What a test of the API has at hand."""

    app: FastAPI
    store: SqlStore
    clock: ManualClock
    registry: CollectorRegistry
    key: str
    missing: list[str]
    blobs: DirectoryBlobs
    feed: JobFeed
    events: EventFeed

    def http(self, key: str | None = "") -> httpx.AsyncClient:
        """Return a client: with ada's key, another one, or (None) without."""
        used = self.key if key == "" else key
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://hueshift.test",
            headers={"Authorization": f"Bearer {used}"} if used else {},
            event_hooks={"response": [check_documented]},
        )

    async def declare(self, **options: object) -> None:
        """Apply the builders' service."""
        spec = builders.make_spec(**options)  # type: ignore[arg-type] # passed through
        await self.store.apply(spec, by="ada", why="", now=self.clock.now())

    async def roll(self, **options: object) -> Rollout:
        """Start the builders' rollout."""
        new = builders.make_new_rollout(**options)  # type: ignore[arg-type] # passed through
        return await self.store.start(new, key=None, now=self.clock.now())

    async def move(
        self, rollout: Rollout, state: State, *, words: str = "moved", evidence: str | None = None
    ) -> Rollout:
        """Do what the controller does: save the next state with its history."""
        done = Occurrence(
            kind="transition",
            what="test",
            by="hueshift",
            words=words,
            before=type(rollout.state).__name__,
            after=type(state).__name__,
        )
        moved = dataclasses.replace(rollout, state=state, evidence=evidence)
        pending = [command.number for command in await self.store.load_pending(rollout.id)]
        return await self.store.save(moved, occurred=[done], handled=pending, now=self.clock.now())

    async def judge(self, rollout: Rollout, *, errors: Sequence[int]) -> Rollout:
        """Do what the controller does with a rollout at 5 %: let it be judged, a second for each count of *errors*.

        A breach ends it; nothing else moves it.
        """
        clusters = Clusters("colorize_v1", "colorize_v2")
        baking = dataclasses.replace(rollout, state=Baking(0, builders.NOW))
        ticks = [
            TickRead(
                builders.TICK + second,
                {"colorize_v1": builders.make_counts(380), "colorize_v2": builders.make_counts(20, errors=count)},
                reporting=1,
                silent=0,
                closed=True,
            )
            for second, count in enumerate(errors)
        ]
        judged = judge_ticks(baking, clusters, ticks)
        after = judged.rollout
        if isinstance(judged.event, Breach):
            ended = RolledBack(self.clock.now(), RollbackCause.SLO_BREACH, judged.event.words)
            after = dataclasses.replace(after, state=ended)
        return await self.store.save(after, judged=judged.ticks, now=self.clock.now())

    async def report_health(self, *rows: ClusterHealth) -> None:
        """Do what the telemetry does: record how many workers an Envoy finds healthy."""
        await self.store.record(TelemetryBatch("test", health=rows))

    async def connect(self, *names: str, acked: str = "a1") -> None:
        """Do what the fleet does: record connected Envoys."""
        await self.store.record_nodes([builders.make_node(name, acked=acked) for name in names])

    async def audit(self, service: str = "colorize") -> Sequence[tuple[str, str, str]]:
        """Return who did what with which words, oldest first."""
        history = await self.store.history(service)
        return [(entry.by, entry.what, entry.words) for entry in history if entry.kind == "audit"]


def make_template(folder: pathlib.Path) -> pathlib.Path:
    """Return an empty database with the present schema: copying it is faster than making it for each test."""
    path = folder / "template.sqlite3"
    asyncio.run(schema.upgrade(f"sqlite:///{path}"))
    return path


@functools.cache
def _shared_app() -> tuple[FastAPI, CollectorRegistry]:
    """Build the API once: FastAPI takes its time, and all that differs between tests is in the parts."""
    registry = CollectorRegistry()
    return _build(None, ManualClock(), registry), registry  # type: ignore[arg-type] # its parts are replaced


def _build(store: SqlStore, clock: ManualClock, registry: CollectorRegistry) -> FastAPI:
    parts = Parts(
        store=store,
        clock=clock,
        auth=make_auth(store, clock),
        inspector=Inspector(store=store, reader=SnapshotReader(), clock=clock),
        desk=JobDesk(store=store, blobs=DirectoryBlobs(pathlib.Path()), source=FakePhotos(), clock=clock),
        callbacks=make_callback_desk(store, clock),
        notify=make_notify_desk(store, clock),
        feed=make_feed(store, clock, WakeBoard()),
        events=make_event_feed(store, clock, WakeBoard()),
        overseer=make_overseer(store, DirectoryBlobs(pathlib.Path()), clock, queue=RabbitQueue("amqp://nowhere")),
    )
    return create_app(parts, registry=registry)


def make_auth(store: SqlStore, clock: ManualClock) -> AuthParts:
    """Build what wiring builds."""
    return AuthParts(
        keys=KeyRing(store=store, clock=clock),
        denials=Denials(store=store, clock=clock),
        audit=store,
        sessions=SessionDesk(
            store=store,
            keys=store,
            shares=store,
            clock=clock,
            idle=dt.timedelta(hours=2),
            longest=dt.timedelta(hours=12),
        ),
        shares=ShareDesk(store=store, clock=clock),
        attempts=Attempts(clock=clock),
    )


def make_feed(store: SqlStore, clock: Clock, board: WakeBoard) -> JobFeed:
    """Build what wiring builds; a test runs it."""
    wake = Wake()
    board.listen(wake, Topic.JOBS, Topic.JOB_STATES)
    return JobFeed(store=store, clock=clock, wake=wake, interval=dt.timedelta(seconds=60))


def make_event_feed(store: SqlStore, clock: Clock, board: WakeBoard) -> EventFeed:
    """Build what wiring builds; a test runs it."""
    wake, standing = Wake(), Wake()
    board.listen(wake, Topic.DESIRED, Topic.COMMANDS, Topic.FLEET, Topic.TELEMETRY)
    board.listen(standing, Topic.DESIRED, Topic.FLEET)
    interval = dt.timedelta(seconds=60)
    return EventFeed(store=store, clock=clock, wake=wake, standing_wake=standing, interval=interval)


@contextlib.asynccontextmanager
async def open_world(
    template: pathlib.Path, folder: pathlib.Path, *, public_reads: bool = False
) -> AsyncIterator[World]:
    """Open a world on a copy of *template*."""
    path = folder / f"store-{secrets.token_hex(4)}.sqlite3"
    shutil.copy(template, path)
    clock = ManualClock()
    missing: list[str] = []
    blobs = DirectoryBlobs(folder / "blobs")

    async def say_missing() -> Sequence[str]:
        return missing

    board = WakeBoard()
    async with await open_store(f"sqlite:///{path}", board=board, clock=clock) as store:
        feed = make_feed(store, clock, board)
        events = make_event_feed(store, clock, board)
        ring = KeyRing(store=store, clock=clock)
        app, registry = _shared_app()
        callbacks = make_callback_desk(store, clock)
        app.state.parts = Parts(
            store=store,
            clock=clock,
            auth=make_auth(store, clock),
            missing=say_missing,
            public_reads=public_reads,
            inspector=Inspector(store=store, reader=SnapshotReader(), clock=clock),
            desk=JobDesk(
                store=store,
                blobs=blobs,
                source=FakePhotos(),
                clock=clock,
                check_callback=callbacks.check_task,
            ),
            callbacks=callbacks,
            notify=make_notify_desk(store, clock),
            feed=feed,
            events=events,
            overseer=make_overseer(store, blobs, clock),
        )
        yield World(app, store, clock, registry, await ring.create("ada"), missing, blobs, feed, events)
