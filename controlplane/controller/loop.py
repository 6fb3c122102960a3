"""The lease holder's loop: settle the fleet's word on snapshots, then move every active rollout at most one step.

Context: the process may die at any line. Choice: everything is derived from rows read in this turn, and a transition,
its history and the command it answers are one commit. Consequence: whoever runs the next turn, here or on another
replica, reaches the same decision from the same rows.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence

import structlog

from controlplane.clock import Clock
from controlplane.controller.desired import traffic_plan
from controlplane.controller.fleet import FleetLevel, fleet_level
from controlplane.controller.narrate import actor, sentence
from controlplane.controller.observer import (
    Clusters,
    FleetView,
    clock_event,
    first_tick,
    heard_at,
    judge_ticks,
    level_event,
)
from controlplane.errors import ControlPlaneError, StaleWriteError
from controlplane.ports import (
    ConfigCompiler,
    Desired,
    DesiredService,
    NodeStatus,
    Occurrence,
    PendingCommand,
    RevisionStatus,
    Rollout,
    RolloutId,
    SnapshotRecord,
    SnapshotStatus,
    Store,
    TickRead,
)
from controlplane.rollout.lifecycle import IllegalTransitionError, advance
from controlplane.rollout.model import Event, Nacked, PauseCause, Paused, Promoted, Resume, RolledBack, RollingBack
from controlplane.traffic.assemble import rollout_split
from controlplane.traffic.model import Split
from controlplane.wake import Wake

log = structlog.get_logger()

BACKOFF = dt.timedelta(seconds=5)
"""How long a rollout whose step crashed is left alone, so that one bug neither spins nor floods the log."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Controller:
    """Moves every active rollout at most one step per turn, while it holds the lease."""

    store: Store
    compiler: ConfigCompiler
    clock: Clock
    wake: Wake
    interval: dt.timedelta
    holder: str
    lease_ttl: dt.timedelta = dt.timedelta(seconds=10)
    _leased_until: float = -1.0
    _resting: dict[RolloutId, float] = dataclasses.field(default_factory=dict)
    _heard: dict[RolloutId, dt.datetime] = dataclasses.field(default_factory=dict)

    async def run(self) -> None:
        """Take a turn at every wake-up, and every *interval* as a fallback, for ever."""
        while True:
            try:
                await self.turn()
            except ControlPlaneError:
                log.warning("controller.turn_refused", exc_info=True)
            except Exception:  # a bug in one turn must not end the guard; the next turn reads everything anew
                log.exception("controller.turn_crashed")
            await self.wake.wait(self.interval)

    async def turn(self) -> None:
        """Read everything once, decide, save."""
        if not await self._holds_lease():
            return
        desired = await self.store.load_desired()
        if not desired.services:
            return
        nodes = await self.store.load_nodes()
        snapshot = await self.store.find_snapshot(self.compiler.compile(traffic_plan(desired)).version)
        level = self._level(nodes, snapshot)
        if snapshot is not None and await self._settle(desired, snapshot, level):
            self.wake.set()  # the rows have changed: decide on the new picture
            return
        fleet = FleetView(nodes, level, await self.store.load_health())
        for service in desired.services:
            if service.rollout is not None:
                await self._step_safely(service, service.rollout, fleet)

    async def _holds_lease(self) -> bool:
        if self.clock.steady() < self._leased_until:
            return True
        asked_at = self.clock.steady()
        epoch = await self.store.acquire_lease(self.holder, ttl=self.lease_ttl, now=self.clock.now())
        # Renewed long before it ends; measured from before the question, so that we never believe in it too long.
        self._leased_until = asked_at + self.lease_ttl.total_seconds() / 3 if epoch is not None else -1.0
        return epoch is not None

    def _level(self, nodes: tuple[NodeStatus, ...], snapshot: SnapshotRecord | None) -> FleetLevel:
        if snapshot is None or snapshot.status is SnapshotStatus.REJECTED:
            # Not published yet, or never to be: nobody runs it.
            return FleetLevel(0, (), ())
        return fleet_level(nodes, snapshot.versions, now=self.clock.now())

    async def _settle(self, desired: Desired, snapshot: SnapshotRecord, level: FleetLevel) -> bool:
        """Write the fleet's verdict on *snapshot*, if it has one; return whether rows changed."""
        if level.refusals and snapshot.status is SnapshotStatus.PROPOSED:
            await self._reject(desired, snapshot, str(level.refusals[0]))
            return True
        if level.settled and snapshot.status is SnapshotStatus.PROPOSED:
            await self.store.mark_snapshot(snapshot.version, SnapshotStatus.GOOD, "")
            unproven = _unproven(desired, snapshot)
            if unproven:
                await self.store.mark_revisions(unproven, RevisionStatus.GOOD, "")
            log.info("snapshot.settled", version=snapshot.version, envoys=level.expected)
            return bool(unproven)
        return False

    async def _reject(self, desired: Desired, snapshot: SnapshotRecord, words: str) -> None:
        """Stop the rollouts that the refusal concerns, then take its cause out of what is served.

        In this order: a crash in between repeats the step, and a rollout never goes on past a refusal unseen.
        """
        log.error("snapshot.rejected", version=snapshot.version, words=words)
        suspects = _unproven(desired, snapshot)
        for service in desired.services:
            if service.rollout is not None and (not suspects or service.revision.spec.name in suspects):
                await self._stop(service.rollout, words)
        if suspects:
            await self.store.mark_revisions(suspects, RevisionStatus.REJECTED, words)
        await self.store.mark_snapshot(snapshot.version, SnapshotStatus.REJECTED, words)

    async def _stop(self, rollout: Rollout, words: str) -> None:
        state = rollout.state
        if isinstance(state, RollingBack):
            log.critical("rollout.rollback_refused", rollout_id=rollout.id, words=words)
        elif not (isinstance(state, Paused) and state.cause is PauseCause.NACK):
            await self._apply(rollout, Nacked(words))

    async def _step_safely(self, service: DesiredService, rollout: Rollout, fleet: FleetView) -> None:
        if self.clock.steady() < self._resting.get(rollout.id, 0.0):
            return
        try:
            await self._step(service, rollout, fleet)
            self._resting.pop(rollout.id, None)
        except StaleWriteError:
            self.wake.set()  # somebody else moved it: look again
        except ControlPlaneError:
            log.warning("rollout.step_refused", rollout_id=rollout.id, exc_info=True)
        except Exception:  # a bug in one rollout must not freeze the others
            log.exception("rollout.step_crashed", rollout_id=rollout.id)
            self._resting[rollout.id] = self.clock.steady() + BACKOFF.total_seconds()

    async def _step(self, service: DesiredService, rollout: Rollout, fleet: FleetView) -> None:
        now = self.clock.now()
        pending = await self.store.load_pending(rollout.id)
        if pending:
            await self._obey(rollout, pending[0])
            return
        spec = service.revision.spec
        clusters = Clusters(spec.version(rollout.baseline).cluster, spec.version(rollout.candidate).cluster)
        ticks = await self.store.load_ticks((clusters.baseline, clusters.candidate), after=first_tick(rollout))
        judged = judge_ticks(rollout, clusters, ticks)
        event = (
            judged.event
            or level_event(rollout, clusters, fleet, now=now)
            or clock_event(rollout, heard_at=self._heard_at(rollout, ticks), now=now)
        )
        if event is not None:
            await self._apply(judged.rollout, event)
        elif judged.rollout != rollout:
            await self.store.save(judged.rollout, now=now)

    def _heard_at(self, rollout: Rollout, ticks: Sequence[TickRead]) -> dt.datetime:
        """Return when telemetry was last complete. Our own absence is no silence of the fleet's: it starts at now."""
        heard = heard_at(ticks) or self._heard.get(rollout.id) or self.clock.now()
        self._heard[rollout.id] = heard
        return heard

    async def _obey(self, rollout: Rollout, pending: PendingCommand) -> None:
        """Answer one command: do it, or say in the history why not. Either way it is handled."""
        try:
            await self._apply(rollout, pending.command, handled=(pending.number,))
        except IllegalTransitionError as refusal:
            log.warning("rollout.command_refused", rollout_id=rollout.id, words=str(refusal))
            command = pending.command
            refused = Occurrence("refused", type(command).__name__, command.by, str(refusal), "", "")
            now = self.clock.now()
            await self.store.save(rollout, occurred=(refused,), handled=(pending.number,), now=now)

    async def _apply(self, rollout: Rollout, event: Event, *, handled: tuple[int, ...] = ()) -> None:
        now = self.clock.now()
        before, after = rollout.state, advance(rollout.plan, rollout.state, event, now=now)
        occurred = Occurrence(
            kind="transition",
            what=type(event).__name__,
            by=actor(event),
            words=sentence(rollout, event, after),
            before=type(before).__name__,
            after=type(after).__name__,
        )
        moved = dataclasses.replace(rollout, state=after)
        if isinstance(event, Resume):
            moved = dataclasses.replace(moved, deadline_at=now + rollout.plan.deadline)
        await self.store.save(moved, occurred=(occurred,), handled=handled, split=_final_split(rollout, after), now=now)
        log.info("rollout.advanced", rollout_id=rollout.id, because=occurred.what, words=occurred.words)
        self.wake.set()  # the new state may already have what it waits for


def _unproven(desired: Desired, snapshot: SnapshotRecord) -> Mapping[str, int]:
    return {
        service.revision.spec.name: service.revision.number
        for service in desired.services
        if service.revision.status is RevisionStatus.PROPOSED
        and snapshot.revisions.get(service.revision.spec.name) == service.revision.number
    }


def _final_split(rollout: Rollout, after: object) -> Split | None:
    """Return the split that a rollout leaves behind; None while it goes on, or when it never moved traffic."""
    match after:
        case Promoted():
            return rollout_split(rollout.baseline, rollout.candidate, 10_000)
        case RolledBack() if isinstance(rollout.state, RollingBack):
            return rollout_split(rollout.baseline, rollout.candidate, 0)
        case _:
            return None
