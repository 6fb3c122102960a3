"""The lease holder's loop: settle the fleet's word on snapshots, then move every active rollout at most one step.

Context: the process may die at any line. Choice: everything is derived from rows read in this turn, and a transition,
its history and the command it answers are one commit. Consequence: whoever runs the next turn, here or on another
replica, reaches the same decision from the same rows.
"""

import dataclasses
import datetime as dt
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import structlog

from controlplane.clock import Clock
from controlplane.controller.desired import grouping, served_revisions, traffic_plans
from controlplane.controller.fleet import Refusal, expected_nodes
from controlplane.controller.groups import GroupView, carriers, level_of, nodes_of, view_groups
from controlplane.controller.holds import FrozenError, load_holds, refuse_more
from controlplane.controller.line import Line, excused, frozen_words
from controlplane.controller.narrate import actor, sentence
from controlplane.controller.observer import (
    Case,
    Clusters,
    FleetView,
    Judged,
    clock_event,
    first_tick,
    heard_at,
    judge_many,
    judge_ticks,
    level_event,
    silence_event,
)
from controlplane.controller.pictures import asked_by, is_comparing, picture_event
from controlplane.controller.trials import Trials
from controlplane.errors import ControlPlaneError, StaleWriteError
from controlplane.ports import (
    ClusterHealth,
    ConfigCompiler,
    Desired,
    DesiredService,
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
from controlplane.rollout.freezing import Freeze
from controlplane.rollout.lifecycle import IllegalTransitionError, advance
from controlplane.rollout.model import (
    FULL_WEIGHT_BP,
    Event,
    Nacked,
    PauseCause,
    Paused,
    Promoted,
    Resume,
    RolledBack,
    RollingBack,
    Supersede,
)
from controlplane.rollout.objectives import query_slos
from controlplane.rollout.recorded import JudgedTick
from controlplane.rollout.slo import quality_slo
from controlplane.traffic.assemble import rollout_split
from controlplane.traffic.model import Split
from controlplane.wake import Wake

log = structlog.get_logger()

Result = TypeVar("Result")

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
    _renews_at: float = -1.0
    _leased_until: float = -1.0
    _resting: dict[RolloutId, float] = dataclasses.field(default_factory=dict)
    _heard: dict[RolloutId, dt.datetime] = dataclasses.field(default_factory=dict)
    _trials: Trials = dataclasses.field(init=False)
    _line: Line = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self._trials = Trials(store=self.store, clock=self.clock)
        self._line = Line(store=self.store, clock=self.clock)

    @property
    def leads(self) -> bool:
        """Whether this process holds the lease, and so is the one that moves rollouts."""
        return self.clock.steady() < self._leased_until

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
        groups = await self._survey(desired)
        if await self._settle(desired, groups):
            self.wake.set()  # the rows have changed: decide on the new picture
            return
        health = await self.store.load_health()
        await self._trials.end(desired, groups, health)
        agenda = await self._line.load_agenda()
        changed, leaving = await self._line.turn(desired, agenda)
        if changed:
            self.wake.set()
        await self._step_all(
            [
                (service, service.rollout, self._fleet_of(service, groups, health))
                for service in desired.services
                if service.rollout is not None
            ],
            agenda.freezes,
            leaving,
        )

    async def _survey(self, desired: Desired) -> tuple[GroupView, ...]:
        now = self.clock.now()
        nodes = await self.store.load_nodes()
        plans = traffic_plans(desired)
        snapshots = {
            key: await self.store.find_snapshot(key, self.compiler.compile(plan).version) for key, plan in plans.items()
        }
        who = grouping(desired, plans, expected_nodes(nodes, now=now))
        return view_groups(plans, snapshots, who, nodes, now=now)

    def _fleet_of(
        self, service: DesiredService, groups: Sequence[GroupView], health: Sequence[ClusterHealth]
    ) -> FleetView:
        revision = service.revision
        mine = tuple(carriers(groups, revision.spec.name))
        trial = f"revision {revision.number} is on trial on one Envoy of each group" if service.on_trial else ""
        return FleetView(nodes_of(mine, now=self.clock.now()), level_of(mine), health, trial)

    async def _holds_lease(self) -> bool:
        if self.clock.steady() < self._renews_at:
            return True
        asked_at = self.clock.steady()
        epoch = await self.store.acquire_lease(self.holder, ttl=self.lease_ttl, now=self.clock.now())
        # Renewed long before it ends; measured from before the question, so that we never believe in it too long.
        ttl = self.lease_ttl.total_seconds() if epoch is not None else 0.0
        self._renews_at, self._leased_until = asked_at + ttl / 3, asked_at + ttl
        return epoch is not None

    async def _settle(self, desired: Desired, groups: Sequence[GroupView]) -> bool:
        """Write the groups' verdicts on their snapshots, where they have one; return whether rows changed."""
        for group in groups:
            if group.snapshot is None or group.snapshot.status is not SnapshotStatus.PROPOSED:
                continue
            if group.level.refusals:
                await self._reject(desired, group, group.snapshot, group.level.refusals[0])
                return True
            if group.level.settled:
                await self.store.mark_snapshot(group.key, group.snapshot.version, SnapshotStatus.GOOD, "")
                log.info(
                    "snapshot.settled", group=group.key, version=group.snapshot.version, envoys=group.level.expected
                )
        proven = {
            revision.spec.name: revision.number
            for _, revision in served_revisions(desired, trials=False)
            if revision.status is RevisionStatus.PROPOSED and _is_run(groups, revision.spec.name)
        }
        if proven:
            await self.store.mark_revisions(proven, RevisionStatus.GOOD, "", now=self.clock.now())
        return bool(proven)

    async def _reject(self, desired: Desired, group: GroupView, snapshot: SnapshotRecord, refusal: Refusal) -> None:
        """Stop the rollouts that the refusal concerns, then take its cause out of what is served.

        In this order: a crash in between repeats the step, and a rollout never goes on past a refusal unseen.
        """
        words = str(refusal)
        log.error("snapshot.rejected", group=group.key, version=snapshot.version, words=words)
        suspects = await self._suspects(desired, group, refusal)
        for service in desired.services:
            name = service.revision.spec.name
            if service.rollout is not None and group.carries(name) and (not suspects or name in suspects):
                await self._stop(service.rollout, words)
        if suspects:
            await self.store.mark_revisions(suspects, RevisionStatus.REJECTED, words, now=self.clock.now())
        await self.store.mark_snapshot(group.key, snapshot.version, SnapshotStatus.REJECTED, words)

    async def _suspects(self, desired: Desired, group: GroupView, refusal: Refusal) -> Mapping[str, int]:
        """Return the revisions that *refusal* is blamed on: the unproven ones that the Envoy had not yet taken.

        One that it runs may be unproven for as long as another Envoy is away; a new service must not be taken from its
        clients for a mistake in a different one.
        """
        unproven = _unproven(desired, group)
        acked = [node.types[refusal.kind].acked for node in group.nodes if node.node == refusal.node]
        runs = await self.store.find_config(refusal.kind, acked[0]) if acked and acked[0] else None
        if runs is None:
            return unproven
        news = {name: number for name, number in unproven.items() if runs.revisions.get(name) != number}
        return news or unproven

    async def _stop(self, rollout: Rollout, words: str) -> None:
        state = rollout.state
        if isinstance(state, RollingBack):
            log.critical("rollout.rollback_refused", rollout_id=rollout.id, words=words)
        elif not (isinstance(state, Paused) and state.cause is PauseCause.NACK):
            await self._apply(rollout, Nacked(words))

    async def _step_all(
        self,
        rollouts: Sequence[tuple[DesiredService, Rollout, FleetView]],
        freezes: Sequence[Freeze],
        leaving: Mapping[RolloutId, Supersede],
    ) -> None:
        """Move every rollout as far as commands, ticks, the fleet and the clock say; the judge sees all at once."""
        due: list[tuple[Case, FleetView]] = []
        for service, rollout, fleet in rollouts:
            case = await self._safely(rollout, functools.partial(self._gather, service, rollout, freezes, leaving))
            if case is not None:
                due.append((case, fleet))
        for (case, fleet), judged in zip(due, _judge([case for case, _ in due]), strict=True):
            await self._safely(case.rollout, functools.partial(self._decide, case, judged, fleet, freezes))

    async def _safely(self, rollout: Rollout, step: Callable[[], Awaitable[Result]]) -> Result | None:
        """Take one step of one rollout; whatever goes wrong concerns that rollout only."""
        if self.clock.steady() < self._resting.get(rollout.id, 0.0):
            return None
        try:
            result = await step()
        except StaleWriteError:
            self.wake.set()  # somebody else moved it: look again
        except ControlPlaneError:
            log.warning("rollout.step_refused", rollout_id=rollout.id, exc_info=True)
        except Exception:  # a bug in one rollout must not freeze the others
            log.exception("rollout.step_crashed", rollout_id=rollout.id)
            self._resting[rollout.id] = self.clock.steady() + BACKOFF.total_seconds()
        else:
            return result
        return None

    async def _gather(
        self,
        service: DesiredService,
        rollout: Rollout,
        freezes: Sequence[Freeze],
        leaving: Mapping[RolloutId, Supersede],
    ) -> Case | None:
        """Read what the judge may want to see; None where a command or a newer version came first and was answered."""
        now = self.clock.now()
        frozen = "" if rollout.plan.direct else frozen_words(freezes, rollout.service, now=now)
        pending = await self.store.load_pending(rollout.id)
        if pending:
            await self._obey(rollout, pending[0], frozen)
            return None
        if rollout.id in leaving:
            await self._apply(rollout, leaving[rollout.id])
            return None
        spec = service.revision.spec
        clusters = Clusters(spec.version(rollout.baseline).cluster, spec.version(rollout.candidate).cluster)
        after = first_tick(rollout)
        ticks = await self.store.load_ticks((clusters.baseline, clusters.candidate), after=after)
        asked = [slo.name for slo in query_slos(rollout.slos)]
        # Read after the ticks: a sample is stored before its tick begins, so none of a closed tick can be missing.
        samples = await self.store.load_samples(rollout.id, asked, after=after) if asked else ()
        runs = await self.store.load_quality_runs(rollout.id) if quality_slo(rollout.slos) else ()
        holds = await load_holds(self.store, spec, rollout, runs, frozen=frozen, now=now)
        return Case(rollout, clusters, ticks, samples, holds, pictures=runs)

    async def _decide(self, case: Case, judged: Judged | None, fleet: FleetView, freezes: Sequence[Freeze]) -> None:
        rollout, clusters, ticks = case.rollout, case.clusters, case.ticks
        now = self.clock.now()
        judged = judged or judge_ticks(rollout, clusters, ticks, case.samples, case.holds)
        seen = picture_event(rollout, case.pictures)
        timed = excused(rollout, freezes, now=now)
        event = (
            judged.event
            or seen
            or level_event(
                timed, clusters, fleet, now=now, holds=case.holds, patient=is_comparing(case.pictures, now=now)
            )
            or clock_event(timed, heard_at=self._heard_at(rollout, ticks), now=now)
            or silence_event(rollout, case.samples, now=now)
        )
        if event is not None:
            moved = asked_by(judged.rollout, seen, case.pictures) if event is seen else judged.rollout
            await self._apply(moved, event, judged=judged.ticks)
        elif judged.rollout != rollout:
            await self.store.save(judged.rollout, judged=judged.ticks, now=now)
        self._resting.pop(rollout.id, None)

    def _heard_at(self, rollout: Rollout, ticks: Sequence[TickRead]) -> dt.datetime:
        """Return when telemetry was last complete. Our own absence is no silence of the fleet's: it starts at now."""
        heard = heard_at(ticks) or self._heard.get(rollout.id) or self.clock.now()
        self._heard[rollout.id] = heard
        return heard

    async def _obey(self, rollout: Rollout, pending: PendingCommand, frozen: str) -> None:
        """Answer one command: do it, or say in the history why not. Either way it is handled."""
        try:
            if frozen:
                refuse_more(rollout, pending.command, frozen, now=self.clock.now())
            await self._apply(rollout, pending.command, handled=(pending.number,))
        except (IllegalTransitionError, FrozenError) as refusal:
            log.warning("rollout.command_refused", rollout_id=rollout.id, words=str(refusal))
            command = pending.command
            refused = Occurrence("refused", type(command).__name__, command.by, str(refusal), "", "")
            now = self.clock.now()
            await self.store.save(rollout, occurred=(refused,), handled=(pending.number,), now=now)

    async def _apply(
        self, rollout: Rollout, event: Event, *, handled: tuple[int, ...] = (), judged: tuple[JudgedTick, ...] = ()
    ) -> None:
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
        split = await self._final_split(rollout, after)
        await self.store.save(moved, occurred=(occurred,), handled=handled, split=split, judged=judged, now=now)
        log.info("rollout.advanced", rollout_id=rollout.id, because=occurred.what, words=occurred.words)
        self.wake.set()  # the new state may already have what it waits for

    async def _final_split(self, rollout: Rollout, after: object) -> Split | None:
        """Return the split that a rollout leaves behind; None while it goes on, or when it never moved traffic."""
        match after:
            case Promoted():
                candidate_bp = FULL_WEIGHT_BP
            case RolledBack() if isinstance(rollout.state, RollingBack):
                candidate_bp = 0
            case _:
                return None
        before = (await self.store.load_service(rollout.service)).split
        return rollout_split(before, rollout.baseline, rollout.candidate, candidate_bp)


def _judge(cases: Sequence[Case]) -> Sequence[Judged | None]:
    """Let the judge see all *cases* together; None where each must be judged by itself, to find the one that fails."""
    try:
        return judge_many(cases)
    except Exception:  # a bug over one rollout must not freeze the others
        log.exception("controller.judge_crashed", rollouts=len(cases))
        return [None] * len(cases)


def _unproven(desired: Desired, group: GroupView) -> Mapping[str, int]:
    """Return the revisions that *group* is served and no fleet has acknowledged yet: a refusal is blamed on them."""
    return {
        revision.spec.name: revision.number
        for _, revision in served_revisions(desired, trials=group.is_canary)
        if revision.status is RevisionStatus.PROPOSED and group.carries(revision.spec.name)
    }


def _is_run(groups: Sequence[GroupView], service: str) -> bool:
    """Whether every Envoy that should run *service* as it is for all does, and there is one."""
    manned = [group for group in carriers(groups, service) if not group.is_canary and group.level.expected]
    return bool(manned) and all(group.level.settled for group in manned)
