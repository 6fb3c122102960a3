"""A whole control plane in virtual time: the real store, compiler, cache, projector, controller and judge; Envoys that
acknowledge, refuse, leave and report when a test says so."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from statistics import NormalDist

from controlplane.controller.desired import live_split
from controlplane.controller.examiner import Examiner
from controlplane.controller.loop import Controller
from controlplane.controller.projector import Projector
from controlplane.controller.sampler import Sampler
from controlplane.ports import (
    Beat,
    ClusterHealth,
    ClusterTick,
    NodeStatus,
    Rollout,
    RolloutId,
    SnapshotRecord,
    TelemetryBatch,
    TypeStatus,
)
from controlplane.rollout.model import Command
from controlplane.rollout.slo import Slo
from controlplane.rollout.windows import BUCKETS, VersionTick
from controlplane.store import SqlStore, open_store
from controlplane.traffic.model import Split
from controlplane.wake import Wake, WakeBoard
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.snapshot import SnapshotCompiler
from tests import builders
from tests.fakes import FakeGate, FakeMetrics, ManualClock

SECOND = dt.timedelta(seconds=1)
RPS = 400


@functools.cache
def spread(completed: int, *, errors: int) -> VersionTick:
    """Return a tick whose latencies spread over some buckets around 100 ms, the same way for every version."""
    latency = [0] * BUCKETS
    for at in range(completed):
        latency[60 + round(8 * NormalDist().inv_cdf((at + 0.5) / completed))] += 1
    return VersionTick(completed=completed, errors=errors, started=completed, active=0, latency=tuple(latency))


@dataclasses.dataclass
class World:
    """Everything, and the hands of the fleet."""

    store: SqlStore
    clock: ManualClock
    cache: SnapshotCache
    projector: Projector
    controller: Controller
    sampler: Sampler
    metrics: FakeMetrics
    """What Prometheus says."""
    examiner: Examiner
    gate: FakeGate
    """What the versions' pictures are like."""
    nodes: tuple[str, ...] = ("edge-1",)
    errors: Callable[[], float] = lambda: 0.0
    """The candidate's error rate, now."""
    acking: bool = True
    refusing: Callable[[SnapshotRecord], str] = lambda _: ""
    """Envoy's words against a snapshot's routes; "" accepts."""
    silent: bool = False
    unhealthy: str = ""
    """The cluster whose workers fail their health checks."""
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The groups of the Envoys that are not in the group ``edge``."""
    answered: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    running: dict[str, SnapshotRecord] = dataclasses.field(default_factory=dict)
    splits: list[dict[str, int]] = dataclasses.field(default_factory=list)

    async def live(self, rollout: RolloutId, *, until: Callable[[Rollout], bool], seconds: int = 900) -> Rollout:
        """Let seconds pass until *until* holds; fail after *seconds*."""
        found = await self.store.load(rollout)
        for _ in range(seconds):
            await self.pass_second()
            found = await self.store.load(rollout)
            if until(found):
                return found
        raise AssertionError(f"still {found.state} after {seconds} s; evidence {found.evidence}")

    async def pass_second(self) -> None:
        """One second of traffic, then turns of all loops until nothing moves."""
        await self.sample()
        await self.examine()
        await self.report()
        self.clock.move(SECOND)
        await self.turn()

    async def sample(self) -> None:
        """Let the sampler ask what is due, and keep the answers."""
        async with asyncio.TaskGroup() as tasks:
            await self.sampler.turn(tasks)
        await self.sampler.write()

    async def examine(self) -> None:
        """Let the examiner compare the pictures that are due."""
        async with asyncio.TaskGroup() as tasks:
            await self.examiner.turn(tasks)

    async def turn(self) -> None:
        """Let projector, Envoys and controller take turns until nothing moves."""
        for _ in range(6):
            await self.projector.project()
            await self.envoys_answer()
            await self.controller.turn()
            if not await self.controller.wake.wait(dt.timedelta(0)):
                return

    async def envoys_answer(self) -> None:
        """Have every Envoy acknowledge or refuse what it is served, once."""
        if not self.acking:
            return
        for node in self.nodes:
            await self._envoy_answers(node)
        spec = (await self.store.load_service("colorize")).served.spec
        health = tuple(
            ClusterHealth(node, version.cluster, 0 if version.cluster == self.unhealthy else 1, 1)
            for node in self.nodes
            for version in spec.versions
        )
        await self.store.record(TelemetryBatch("fleet", health=health))

    async def _envoy_answers(self, node: str) -> None:
        group = self.cache._grouping.of(node, self.groups.get(node, "edge"))
        version = self.cache.served_versions.get(group)
        if version is None or self.answered.get(node) == (group, version):
            return
        snapshot = await self.store.find_snapshot(group, version)
        assert snapshot is not None, "a snapshot is a row before it is served"
        self.answered[node] = (group, version)
        words = self.refusing(snapshot)
        if not words:
            self.running[node] = snapshot
        await self.store.record_nodes([self._status(node, snapshot, words)])

    async def report(self) -> None:
        """Report one second of traffic, shared as the Envoys' present snapshot says."""
        tick = int(self.clock.now().timestamp())
        if self.silent:
            await self.store.record(TelemetryBatch("fleet", beats=(Beat(tick, 0, len(self.nodes), closed=True),)))
            return
        split = await self.split()
        counts = []
        for share in split:
            completed = RPS * share.weight_bp // 10_000
            failed = round(completed * self.errors()) if share.version == "v2" else 0
            counts.append(ClusterTick(f"colorize_{share.version}", tick, spread(completed, errors=failed)))
        self.splits.append({share.version: share.weight_bp for share in split})
        beat = Beat(tick, len(self.nodes), 0, closed=True)
        await self.store.record(TelemetryBatch("fleet", ticks=tuple(counts), beats=(beat,)))

    async def split(self) -> Split:
        """Return the split that the rows ask for."""
        return live_split((await self.store.load_desired()).services[0])

    async def start(self, *slos: Slo) -> RolloutId:
        """Start v1 -> v2, with *slos* beside the usual objectives."""
        new = builders.make_new_rollout()
        new = dataclasses.replace(new, slos=(*new.slos, *slos))
        return (await self.store.start(new, key=None, now=self.clock.now())).id

    async def command(self, command: Command) -> None:
        """Ask for something."""
        await self.store.add_command("colorize", command, key=None, now=self.clock.now())

    def _status(self, node: str, snapshot: SnapshotRecord, words: str) -> NodeStatus:
        ran = self.running.get(node)
        types = {
            kind: TypeStatus(
                sent=version,
                acked=(ran.versions[kind] if ran else "") if words and kind == "rds" else version,
                nacked=version if words and kind == "rds" else "",
                words=words if kind == "rds" else "",
            )
            for kind, version in snapshot.versions.items()
        }
        group = self.groups.get(node, "edge")
        return NodeStatus(node, group, "main", "delta", builders.NOW, None, types, group)


@contextlib.asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    """Build a world with the service ``colorize`` applied and its Envoys in sync."""
    clock, board, compiler = ManualClock(), WakeBoard(), SnapshotCompiler()
    store = await open_store("sqlite://", board=board, clock=clock)
    try:
        cache = SnapshotCache(clock=clock, identifier="main")
        controller = _controller(store, clock)
        metrics, gate = FakeMetrics(), FakeGate()
        world = World(
            store=store,
            clock=clock,
            cache=cache,
            projector=Projector(
                store=store, compiler=compiler, publisher=cache, clock=clock, wake=Wake(), interval=SECOND
            ),
            controller=controller,
            sampler=_sampler(store, clock, metrics, controller),
            metrics=metrics,
            examiner=_examiner(store, clock, gate, controller),
            gate=gate,
        )
        await store.apply(builders.make_spec(), by="ada", why="first", now=clock.now())
        await world.turn()
        for _ in range(5):
            await world.pass_second()  # some history of the baseline
        yield world
    finally:
        await store.close()


def restarted(world: World) -> World:
    """Return the world after its control plane was killed and started again: only rows are left of it."""
    compiler = SnapshotCompiler()
    cache = SnapshotCache(clock=world.clock, identifier="main")
    controller = _controller(world.store, world.clock)
    return dataclasses.replace(
        world,
        cache=cache,
        projector=Projector(
            store=world.store, compiler=compiler, publisher=cache, clock=world.clock, wake=Wake(), interval=SECOND
        ),
        controller=controller,
        sampler=_sampler(world.store, world.clock, world.metrics, controller),
        examiner=_examiner(world.store, world.clock, world.gate, controller),
    )


def _controller(store: SqlStore, clock: ManualClock) -> Controller:
    compiler = SnapshotCompiler()
    return Controller(store=store, compiler=compiler, clock=clock, wake=Wake(), interval=SECOND, holder="main")


def _sampler(store: SqlStore, clock: ManualClock, metrics: FakeMetrics, controller: Controller) -> Sampler:
    return Sampler(store=store, source=metrics, clock=clock, leads=lambda: controller.leads)


def _examiner(store: SqlStore, clock: ManualClock, gate: FakeGate, controller: Controller) -> Examiner:
    return Examiner(store=store, gate=gate, clock=clock, leads=lambda: controller.leads)
