"""What the core needs from the outside, named by role, and the records that cross those borders.

Every adapter of a port passes the port's contract suite in tests/contract. Moments are aware UTC. Writers that change
what loops read announce it on the `WakeBoard` after their commit.
"""

import dataclasses
import datetime as dt
import enum
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NewType, Protocol, TypeAlias

from controlplane.rollout.freezing import Freeze
from controlplane.rollout.gate import GateAnswer
from controlplane.rollout.model import Command, Plan, State
from controlplane.rollout.past import Failure
from controlplane.rollout.quality import QualityRun, QualityVerdict
from controlplane.rollout.recorded import JudgedTick
from controlplane.rollout.sampling import QuerySample
from controlplane.rollout.slo import QualitySlo, Slo
from controlplane.rollout.waiting import WaitingStart
from controlplane.rollout.windows import VersionTick
from controlplane.traffic.declared import Declaration, DocumentKey
from controlplane.traffic.groups import Grouping
from controlplane.traffic.model import ServiceSpec, Split, TrafficPlan
from controlplane.traffic.provenance import ModelReport, ServedModel

RolloutId = NewType("RolloutId", str)
"""The service's name, a dash and the rollout's number in that service: ``colorize-7``."""


# -- catalogue ---------------------------------------------------------------------------------------------------------


class RevisionStatus(enum.Enum):
    """What the fleet made of a revision of a service."""

    PROPOSED = "proposed"
    GOOD = "good"
    REJECTED = "rejected"


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """Who changes something and why, as the audit will tell it: written with the change, or not at all."""

    by: str
    why: str
    at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Revision:
    """One declaration of a service, never changed again. *words* are Envoy's, when it was rejected.

    *tried_at* is when its configuration canary was over, where it had one.
    """

    number: int
    spec: ServiceSpec
    status: RevisionStatus
    words: str
    by: str
    why: str
    at: dt.datetime
    tried_at: dt.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceRecord:
    """A service: its newest revision, the newest one that was not rejected (what is served), and its live split."""

    name: str
    newest: Revision
    served: Revision
    split: Split


class CatalogueStore(Protocol):
    """Services and their revisions."""

    async def apply(
        self, spec: ServiceSpec, *, by: str, why: str, now: dt.datetime, expected: int | None = None
    ) -> tuple[Revision, bool]:
        """Make *spec* the newest revision of its service, with an audit row; return it and whether it is new.

        The same declaration again is a no-op (False). The first revision sets the live split to its initial one.
        *expected* is the number that the newest revision must have, 0 for none yet; None takes whatever it is.

        Raises:
            PreconditionFailedError: The newest revision is another one than *expected*.
            ConflictError: Another service owns the listener's name or port, a cluster, or the route configuration;
                or the spec lacks a version that carries traffic now or that an active rollout moves.
        """

    async def load_service(self, name: str) -> ServiceRecord:
        """Return a service.

        Raises:
            NotFoundError: There is none of that name.
        """

    async def list_services(
        self, *, after: str = "", limit: int | None = None, only: Collection[str] | None = None
    ) -> tuple[ServiceRecord, ...]:
        """Return services, by name: those whose names come later than *after*, all of them without a *limit*.

        *only* names those that are wanted, None wants all.
        """

    async def set_split(self, service: str, split: Split, *, by: str, why: str, now: dt.datetime) -> None:
        """Replace the live split, with an audit row.

        Raises:
            NotFoundError: No such service or version.
            ConflictError: A rollout is active; it owns the split.
        """

    async def mark_revisions(
        self, numbers: Mapping[str, int], status: RevisionStatus, words: str, *, now: dt.datetime
    ) -> None:
        """Set the status of one revision per service; a status once GOOD stays, and nothing else changes.

        A rejection is history of the service.
        """

    async def mark_tried(self, numbers: Mapping[str, int], words: str, *, now: dt.datetime) -> None:
        """Note that the configuration canary of one revision per service is over, with *words* in its history."""


# -- rollouts ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class NewRollout:
    """What is needed to start one. *plan* and *slos* are frozen into it: later revisions do not move its goal posts.

    *baseline* is the version whose traffic moves; "" where only one besides the candidate has any. *what* is what was
    asked for, as the audit says it: ``start``, ``retry`` or ``undo``.
    """

    service: str
    candidate: str
    plan: Plan
    slos: tuple[Slo, ...]
    by: str
    why: str
    baseline: str = ""
    what: str = "start"


@dataclasses.dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as its row says. *version* counts saves and guards against a second writer.

    *judge* is the judge's own state, JSON; *evidence* is its last judgement, JSON, for people; *judged_tick* is the
    last tick it has seen. *asked* is the worst verdict on its pictures that a person was asked about.
    """

    id: RolloutId
    service: str
    baseline: str
    candidate: str
    plan: Plan
    slos: tuple[Slo, ...]
    state: State
    version: int
    started_at: dt.datetime
    deadline_at: dt.datetime
    by: str
    why: str
    judge: str | None = None
    evidence: str | None = None
    judged_tick: int | None = None
    asked: QualityVerdict | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PendingCommand:
    """A command that nobody has handled yet."""

    number: int
    command: Command


@dataclasses.dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Something that happened, in the order of *number*; never changed, never deleted.

    *kind* is ``transition``, ``refused`` or ``audit``; *what* is the event's or action's name; *before* and *after*
    are state names where it was a transition, of a rollout or (when *rollout* is None) of a revision; *words* is the
    one sentence that people read.
    """

    number: int
    at: dt.datetime
    kind: str
    service: str
    rollout: RolloutId | None
    what: str
    by: str
    words: str
    before: str = ""
    after: str = ""
    weights: Mapping[str, int] | None = None
    """The weights that are asked for from then on, basis points by version, where the entry tells of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Occurrence:
    """What `RolloutStore.save` adds to the history along with the new state."""

    kind: str
    what: str
    by: str
    words: str
    before: str
    after: str


class RolloutStore(Protocol):
    """Rollouts, the commands that wait for them, and what happened."""

    async def start(self, new: NewRollout, *, key: str | None, now: dt.datetime) -> Rollout:
        """Insert a rollout in `Preparing`, with audit and history rows; the same *key* again returns the first one.

        The baseline is the version that *new* names, or the only other one that has traffic; the rest keep theirs.

        Raises:
            NotFoundError: No such service or version.
            ConflictError: A rollout of the service is active; or the candidate already has all traffic; or the split
                has more than one version besides the candidate, or not the one that *new* names; or the service is
                frozen, unless the plan is a direct one.
        """

    async def load(self, rollout: RolloutId) -> Rollout:
        """Return a rollout. Raises NotFoundError."""

    async def load_latest(self, service: str) -> Rollout | None:
        """Return the service's newest rollout, active or not."""

    async def load_latest_of(self, services: Collection[str]) -> Mapping[str, Rollout]:
        """Return the newest rollouts of several services, in one go; a service without one is absent."""

    async def load_active(self) -> tuple[Rollout, ...]:
        """Return every rollout that has not ended."""

    async def list_rollouts(
        self, service: str | None = None, *, before: RolloutId | None = None, limit: int = 50
    ) -> tuple[Rollout, ...]:
        """Return rollouts, newest first; of one service also those that are older than its rollout *before*."""

    async def add_command(self, service: str, command: Command, *, key: str | None, now: dt.datetime) -> PendingCommand:
        """Queue a command for the service's active rollout, with an audit row; the same *key* again changes nothing.

        Raises:
            NotFoundError: No such service.
            ConflictError: No rollout of it is active.
        """

    async def load_pending(self, rollout: RolloutId) -> tuple[PendingCommand, ...]:
        """Return the unhandled commands, oldest first."""

    async def save(
        self,
        rollout: Rollout,
        *,
        occurred: Sequence[Occurrence] = (),
        handled: Sequence[int] = (),
        split: Split | None = None,
        judged: Sequence[JudgedTick] = (),
        now: dt.datetime,
    ) -> Rollout:
        """Commit the rollout, its history, the handled commands and (when it ends) the service's split, all or none.

        So is the record of the ticks that its judge has seen since the last save. Returns it with its version raised
        by one.

        Raises:
            StaleWriteError: *rollout.version* is not the row's, or the rollout would end before a command that was
                taken down for it is handled.
        """

    async def load_judged(self, rollout: RolloutId, *, after: int = 0, limit: int = 600) -> tuple[JudgedTick, ...]:
        """Return the ticks later than *after* that the judge of *rollout* has seen, oldest first, as far as kept."""

    async def load_odds(
        self, rollout: RolloutId, *, since: int, until: int, step: int
    ) -> tuple[tuple[int, Mapping[str, float]], ...]:
        """Return the evidence per objective as of the last judged tick in each *step* seconds that begin at a multiple.

        From the tick *since* to before *until*, oldest first, as far as it is kept.
        """

    async def load_weights(self, service: str, *, since: dt.datetime) -> tuple[HistoryEntry, ...]:
        """Return the entries that tell weights since then, and the last one before, oldest first."""

    async def history(
        self, service: str, *, rollout: str | None = None, before: int | None = None, limit: int = 200
    ) -> tuple[HistoryEntry, ...]:
        """Return what happened last to a service and its rollouts, oldest first.

        Args:
            service: Whose.
            rollout: Only what belongs to this one.
            before: Only entries with lower numbers.
            limit: How many, the newest of them.
        """

    async def history_since(self, service: str, after: int, *, limit: int = 200) -> tuple[HistoryEntry, ...]:
        """Return the first entries of a service's history with numbers above *after*, oldest first."""


# -- starts that wait, undo, freezes -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Agenda:
    """What the controller has to heed besides rollouts: starts that wait, in the order in which they came; freezes."""

    waiting: tuple[WaitingStart, ...]
    freezes: tuple[Freeze, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Undone:
    """What an undo became: the *command* to the active *rollout*, or (None) a rollout of its own back to *version*."""

    rollout: RolloutId
    version: str
    command: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Stopped:
    """What stopping everything came to: rollouts asked to abort, waits cancelled, undos that were let go on."""

    rollouts: tuple[RolloutId, ...]
    cancelled: tuple[str, ...]
    left: tuple[RolloutId, ...]


class SteeringStore(Protocol):
    """Starts that wait their turn, ways back, freeze windows."""

    async def line_up(self, asked: WaitingStart, *, key: str | None, now: dt.datetime) -> WaitingStart:
        """Let a start wait, with an audit row; the same *key* again returns the first one.

        Its id and what stands before it are the store's to say. One that supersedes ends the wait of those whose hour
        has come already.

        Raises:
            NotFoundError: No such service or version.
            ConflictError: `MAX_WAITING` wait already; or it would supersede a rollout to the very same version.
        """

    async def load_agenda(self, *, since: dt.datetime) -> Agenda:
        """Return every start that waits, and the freezes that were not over at *since*, past and present."""

    async def load_waiting(self, start: str) -> WaitingStart:
        """Return one by its id, waiting or not any more. Raises NotFoundError."""

    async def begin(self, waiting: WaitingStart, new: NewRollout, *, now: dt.datetime) -> Rollout:
        """End a wait by starting its rollout, both or none.

        Raises:
            StaleWriteError: It does not wait any more, a rollout is active, or a freeze began: look again.
            ConflictError: The split does not fit, see `RolloutStore.start`.
            NotFoundError: The service has left the version behind.
        """

    async def drop(self, waiting: WaitingStart, *, words: str, now: dt.datetime) -> None:
        """End a wait without a rollout, with *words* in the history; one that has ended stays as it is."""

    async def cancel(
        self, service: str, start: str | None, *, by: str, why: str, now: dt.datetime
    ) -> tuple[WaitingStart, ...]:
        """End the wait of one start, or (None) of all of a service, with audit rows; return them.

        Raises:
            NotFoundError: No such service, or *start* does not wait there.
        """

    async def load_misfortune(self, start: str) -> str:
        """Say how the rollout or the wait of that id ended, if that was no promotion; "" otherwise."""

    async def load_failure(self, service: str, version: str) -> Failure | None:
        """Return how a version failed when it was tried last; None where it did not."""

    async def undo(self, service: str, to: str, *, by: str, why: str, key: str | None, now: dt.datetime) -> Undone:
        """Take back what the active rollout has moved, or, without one, what the last promotion has moved.

        *to* names the version that is to get the traffic, "" for the one before. The same *key* again changes nothing.

        Raises:
            NotFoundError: No such service or version.
            ConflictError: There is nothing to undo, or not that way.
        """

    async def stop_all(self, *, by: str, why: str, now: dt.datetime) -> Stopped:
        """Ask every active rollout to abort and cancel every wait, with audit rows. Undos go on."""

    async def freeze(self, service: str, *, until: dt.datetime, by: str, why: str, now: dt.datetime) -> Freeze:
        """Begin a freeze of *service*, or ("") of everything, in place of the one there is; with audit rows.

        Raises:
            NotFoundError: No such service.
        """

    async def unfreeze(self, service: str, *, by: str, why: str, now: dt.datetime) -> Freeze:
        """End the freeze of *service*, or ("") of everything, with audit rows; return it.

        Raises:
            NotFoundError: No such service.
            ConflictError: It is not frozen, or only as everything is.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class LoggedEntry:
    """An entry of the history with the versions of its rollout, "" where it has none.

    *outcome* are the words that the rollout ended with, "" while it goes on.
    """

    entry: HistoryEntry
    baseline: str = ""
    candidate: str = ""
    outcome: str = ""


class GateStore(Protocol):
    """What the gates of plans say."""

    async def load_gate(self, rollout: RolloutId) -> GateAnswer | None:
        """Return the newest answer of a gate that the rollout stood before."""

    async def answer_gate(self, rollout: RolloutId, answer: GateAnswer, *, words: str, now: dt.datetime) -> bool:
        """Keep an answer; *words* say it in the history, if it is another one than before.

        Returns:
            False when it changed nothing: the rollout has moved on, or somebody has decided at this visit.

        Raises:
            NotFoundError: There is no such rollout.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class EnvoyAnswer:
    """What some Envoys said of one version of one resource type, at about the same time.

    *count* of them did; *nodes* are the first. *words* are Envoy's, of a refusal.
    """

    kind: str
    version: str
    acked: bool
    nodes: tuple[str, ...]
    count: int
    at: dt.datetime
    words: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """An answer with its place in the log, and the services in what was answered, None where nobody knows any more."""

    number: int
    answer: EnvoyAnswer
    services: tuple[str, ...] | None


Logged: TypeAlias = LoggedEntry | LoggedAnswer


class EventLog(Protocol):
    """The history of all services and the answers of Envoys as one log, in the order of their numbers.

    Whoever has seen something has seen, or will never see, everything with a lower number: a transaction that is late
    gets a higher one, and one that fails leaves a gap. Answers go with the telemetry, and leave gaps too.
    """

    async def load_log(self, *, after: int, limit: int) -> tuple[Logged, ...]:
        """Return the first *limit* things later than *after*, oldest first."""

    async def load_log_end(self, *, limit: int) -> tuple[Logged, ...]:
        """Return the last *limit* things, oldest first."""


# -- the fleet and its snapshots ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class PastRefusal:
    """What one Envoy refused, in its own words, and when."""

    version: str
    words: str
    at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class TypeStatus:
    """What one Envoy said about one resource type on its present stream. Versions are content hashes, "" for none.

    *nacked*, *words* and *nacked_at* are of a refusal that stands; *last_refusal* stays when the Envoy has long been
    served something else, which happens within moments and by itself.
    """

    sent: str = ""
    acked: str = ""
    acked_at: dt.datetime | None = None
    nacked: str = ""
    words: str = ""
    nacked_at: dt.datetime | None = None
    last_refusal: PastRefusal | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class NodeStatus:
    """One client as one replica sees it. *types* is keyed by the short names cds, eds, lds, rds.

    *group* is the one it says it belongs to, whether or not a service names that; *user_agent* is its program and
    release. Only an Envoy (*is_envoy*) reports telemetry and health.
    """

    node: str
    cluster: str
    replica: str
    variant: str
    connected_at: dt.datetime
    disconnected_at: dt.datetime | None
    types: Mapping[str, TypeStatus]
    group: str = ""
    user_agent: str = ""
    is_envoy: bool = True


class SnapshotStatus(enum.Enum):
    """What the fleet made of a snapshot."""

    PROPOSED = "proposed"
    GOOD = "good"
    REJECTED = "rejected"


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot published to one group of Envoys; "" is the group of those that belong to no other.

    *content* is its serialised resources; *versions* has a content hash per short type name. *version* is the hash of
    everything; a type without resources has the version "". *revisions* names the revision of each service in it, so
    that a refusal finds its cause. The same content in two groups is two snapshots: each group judges for itself.
    """

    version: str
    versions: Mapping[str, str]
    revisions: Mapping[str, int]
    content: bytes
    status: SnapshotStatus
    words: str
    at: dt.datetime
    group: str = ""


class FleetStore(Protocol):
    """Which Envoys are connected and what they run; which snapshots were published."""

    async def record_nodes(self, nodes: Sequence[NodeStatus], *, answers: Sequence[EnvoyAnswer] = ()) -> None:
        """Insert or replace the rows of these nodes, and add their *answers* to the log."""

    async def load_nodes(self) -> tuple[NodeStatus, ...]:
        """Return every node ever seen, connected or not."""

    async def forget_replica(self, replica: str, *, now: dt.datetime) -> None:
        """Mark every node of *replica* as disconnected: a replica calls it when it starts."""

    async def propose_snapshot(self, snapshot: SnapshotRecord) -> None:
        """Store a snapshot before it is served. The same version again only becomes the newest; its status stays."""

    async def mark_snapshot(self, group: str, version: str, status: SnapshotStatus, words: str) -> None:
        """Record the group's verdict. GOOD stays GOOD."""

    async def load_newest_snapshot(self, group: str) -> SnapshotRecord | None:
        """Return the group's newest snapshot that was not rejected: what a replica serves when it starts."""

    async def load_last_good_snapshot(self, group: str) -> SnapshotRecord | None:
        """Return the newest snapshot that every Envoy of the group acknowledged."""

    async def find_snapshot(self, group: str, version: str) -> SnapshotRecord | None:
        """Return one of a group's by its version."""

    async def list_snapshot_groups(self) -> tuple[str, ...]:
        """Return every group that has a snapshot."""

    async def find_config(self, kind: str, version: str) -> SnapshotRecord | None:
        """Return the newest snapshot, of whatever group, whose resources of type *kind* have this version."""

    async def prune_snapshots(self, *, keep: int) -> None:
        """Delete all but the newest *keep* of each group and its last good one."""


# -- what should be served ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class DesiredService:
    """A service, the split that its row holds, and the rollout that moves it now, if any.

    While *revision* has a configuration canary before it, *before* is the newest revision that needs none any more,
    which all other Envoys serve; None when there is no such revision.
    """

    revision: Revision
    split: Split
    rollout: Rollout | None
    before: Revision | None = None

    @property
    def on_trial(self) -> bool:
        """Whether the revision goes to one Envoy of each group only."""
        revision = self.revision
        return (
            revision.status is RevisionStatus.PROPOSED
            and revision.tried_at is None
            and revision.spec.config_canary > dt.timedelta(0)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Desired:
    """Everything the projection reads, from one transaction."""

    services: tuple[DesiredService, ...]
    addresses: Mapping[str, tuple[str, ...]]


class DesiredStore(Protocol):
    """The one picture that snapshots are made from."""

    async def load_desired(self) -> Desired:
        """Return the newest unrejected revision, split and active rollout of every service, and all addresses."""

    async def save_addresses(self, addresses: Mapping[str, tuple[str, ...]], *, now: dt.datetime) -> None:
        """Replace what host names resolve to; announces only a change."""


# -- telemetry ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterTick:
    """What one cluster did in one tick (a unix second), summed over the Envoys that report to one source."""

    cluster: str
    tick: int
    counts: VersionTick


@dataclasses.dataclass(frozen=True, slots=True)
class Beat:
    """That a source was listening in a tick, and to how many Envoys; *silent* of them had not reported for 5 s.

    *closed* says that nothing will be added to the tick any more.
    """

    tick: int
    reporting: int
    silent: int
    closed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class CounterBase:
    """The last cumulative counters of one Envoy process, so that a restart of ours loses and doubles none.

    *epoch* is the Envoy's start, unix seconds; *counters* is keyed by ``cluster/statistic``, and by marks of releases.
    """

    node: str
    epoch: int
    counters: Mapping[str, int]
    at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterHealth:
    """How many members of a cluster one Envoy finds healthy."""

    node: str
    cluster: str
    healthy: int
    total: int


@dataclasses.dataclass(frozen=True, slots=True)
class HistogramGap:
    """A span for which a node's latency histograms were lost (its counters were not)."""

    node: str
    since: dt.datetime
    until: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class TelemetryBatch:
    """What one source has to say, written all or none. *ticks* are whole values of the source's own rows."""

    source: str
    ticks: tuple[ClusterTick, ...] = ()
    beats: tuple[Beat, ...] = ()
    bases: tuple[CounterBase, ...] = ()
    health: tuple[ClusterHealth, ...] = ()
    gaps: tuple[HistogramGap, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class TickRead:
    """One tick as the judge's side reads it: counts per cluster summed over sources, and the beats of the sources."""

    tick: int
    counts: Mapping[str, VersionTick]
    reporting: int
    silent: int
    closed: bool


class TelemetryStore(Protocol):
    """Counts and histograms per version and tick; what Envoys say of their members."""

    async def record(self, batch: TelemetryBatch) -> None:
        """Write a batch in one transaction: rows of (source, cluster, tick) and (source, tick) are replaced."""

    async def load_bases(self) -> tuple[CounterBase, ...]:
        """Return every Envoy's last counters."""

    async def load_ticks(self, clusters: Sequence[str], *, after: int, limit: int = 600) -> tuple[TickRead, ...]:
        """Return the ticks later than *after* that have a beat, oldest first; clusters without a row are absent.

        A tick is *closed* when every source whose first beat is not later has closed it, or a later one: sources close
        in order. One that has not beaten for 10 ticks while others have is dead and holds none open.
        """

    async def sum_up(self, span_s: int, *, until: int) -> bool:
        """Sum up the next *span_s* seconds (60, of ticks; 3600, of minutes) that have any and end by *until*.

        Returns whether there were any. What is summed up stays when the ticks are gone; doing it twice is harmless.
        """

    async def load_summed(
        self, clusters: Sequence[str], span_s: int, *, since: int, until: int, step_s: int = 1
    ) -> tuple[ClusterTick, ...]:
        """Return the sums over *span_s* seconds that begin from *since* to before *until*, oldest first.

        Those of one cluster that begin within the same whole *step_s* seconds come as one. *tick* is where each begins,
        of several the last.
        """

    async def prune_sums(self, span_s: int, *, before: int) -> None:
        """Delete the sums over *span_s* seconds that began earlier."""

    async def load_health(self) -> tuple[ClusterHealth, ...]:
        """Return the members' health as each Envoy last reported it."""

    async def forget_health(self, nodes: Sequence[str]) -> None:
        """Drop the health reports of Envoys that are gone."""

    async def load_gaps(self, *, since: dt.datetime) -> tuple[HistogramGap, ...]:
        """Return the gaps that end after *since*."""

    async def prune_telemetry(self, *, before_tick: int) -> None:
        """Delete what is older than *before_tick*: ticks, beats, judged ticks, samples, runs and pictures of them.

        And counters of Envoys gone. The newest run of a rollout that has not ended stays, without its pictures.
        """


# -- what Prometheus says ----------------------------------------------------------------------------------------------


class MetricSource(Protocol):
    """Answers PromQL queries."""

    async def ask(self, query: str, *, within: dt.timedelta) -> float | None:
        """Return the one number that *query* gives now; None: there is no data, or it is NaN.

        Raises:
            UnavailableError: There is no such number, in one line that says why: it was refused, it gives more than
                one, it did not come *within* the time, or nobody answers.
        """


class SampleStore(Protocol):
    """What queries told of rollouts, as it was told: one row per rollout, objective and tick."""

    async def record_samples(self, samples: Mapping[RolloutId, Sequence[QuerySample]]) -> None:
        """Write them in one transaction; a second sample of the same tick replaces the first. Wakes nobody.

        Raises:
            ConflictError: There is no such rollout.
        """

    async def load_samples(self, rollout: RolloutId, names: Sequence[str], *, after: int) -> tuple[QuerySample, ...]:
        """Return what was told of the objectives *names* later than *after*, and of each what counted last before."""


# -- pictures ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class VersionWorkers:
    """A version, and the addresses of its workers: ``http://10.0.0.1:8083`` each."""

    name: str
    workers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class WorstPicture:
    """The grey photo and both versions' pictures of it side by side, a small JPEG; *words* say what is wrong."""

    name: str
    words: str
    jpeg: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison came to.

    *sentence* is the verdict in words, with what was measured; *report* is all of it, as JSON. *old* and *new* are what
    the workers call themselves. *worst* are the pictures that speak most against the new version, at most three.
    """

    verdict: QualityVerdict
    sentence: str
    report: Mapping[str, Any]
    worst: tuple[WorstPicture, ...] = ()
    old: str = ""
    new: str = ""


class PictureGate(Protocol):
    """Sends both versions of a service the same photos, and compares their pictures."""

    async def compare(self, old: VersionWorkers, new: VersionWorkers, slo: QualitySlo) -> Compared:
        """Return the verdict on *new*; the same pictures give the same one.

        Raises:
            UnavailableError: There is none, in one line that says why: nothing answers at one of them, its workers are
                too busy, it takes too long, or the old version's pictures are no measure.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class QualityReport:
    """A run with all that was measured (empty without a verdict), and its worst pictures: names and words."""

    run: QualityRun
    report: Mapping[str, Any]
    worst: tuple[tuple[str, str], ...]


class QualityStore(Protocol):
    """The comparisons of rollouts' pictures: one row per run, numbered from 1 in each rollout."""

    async def begin_quality_run(self, rollout: RolloutId, *, now: dt.datetime) -> QualityRun:
        """Note that a comparison begins. If the newest one has no verdict, it is begun anew under its number.

        Raises:
            ConflictError: There is no such rollout.
        """

    async def end_quality_run(self, rollout: RolloutId, run: QualityRun, compared: Compared | None) -> bool:
        """Write what *run* came to, with *compared* where it has a verdict; return whether it counts.

        It does not if somebody else has begun it anew meanwhile. A verdict other than the rollout's last one, or the
        first, is history of the service. Wakes whoever moves rollouts.
        """

    async def load_quality_runs(self, rollout: RolloutId, *, limit: int = 2) -> tuple[QualityRun, ...]:
        """Return the newest runs, newest first; the second one always has a verdict."""

    async def load_quality_report(self, rollout: RolloutId, number: int) -> QualityReport:
        """Return one run, whole. Raises NotFoundError."""

    async def load_worst_picture(self, rollout: RolloutId, number: int, place: int) -> WorstPicture:
        """Return one of a run's worst pictures; *place* counts from 1. Raises NotFoundError."""


# -- what workers serve ------------------------------------------------------------------------------------------------


class ModelSource(Protocol):
    """Asks workers which models they serve."""

    async def ask(self, address: str, *, host: str, within: dt.timedelta) -> tuple[tuple[ServedModel, ...], str]:
        """Return the models that the worker at *address* (``IP:port``) serves, and the version of its code.

        *host* is what it is called in the request.

        Raises:
            UnavailableError: It did not say so *within* the time, in one line that says why.
        """


class ModelStore(Protocol):
    """What workers said that they serve: one row per cluster and address."""

    async def record_models(self, reports: Sequence[ModelReport], *, gone: Sequence[tuple[str, str]] = ()) -> None:
        """Insert or replace *reports*, and drop the rows of cluster and address that are *gone*, in one transaction.

        Announces it when a row says something else than before; not a mere later moment.
        """

    async def load_models(self, clusters: Sequence[str] | None = None) -> tuple[ModelReport, ...]:
        """Return what was said by the workers of *clusters*, or of all, by cluster and address."""


# -- who may ask -------------------------------------------------------------------------------------------------------


class LeaseStore(Protocol):
    """Who may move rollouts. One holder at a time; *epoch* grows with each change of holder (a fencing token)."""

    async def acquire_lease(self, holder: str, *, ttl: dt.timedelta, now: dt.datetime) -> int | None:
        """Take or renew the lease; return its epoch, or None while someone else's has not expired."""


class DeclarationStore(Protocol):
    """What documents declared, and by whom."""

    async def load_declarations(self) -> tuple[Declaration, ...]:
        """Return every document that was applied and has not been taken out again, by kind and name."""

    async def apply_declared(
        self,
        spec: ServiceSpec,
        *,
        expected: int,
        by: str,
        why: str,
        now: dt.datetime,
    ) -> tuple[Revision, bool]:
        """Do what `CatalogueStore.apply` does, if revision *expected* (0: none) is the newest still.

        Raises:
            PreconditionFailedError: It is not.
            ConflictError: As there.
        """

    async def delete_service(self, name: str, *, expected: int | None, by: str, why: str, now: dt.datetime) -> None:
        """Serve a service no more, with an audit row; its revisions, rollouts and history are kept.

        Starts of it that wait are given up. Its Envoys lose it as they lose anything: after they have acknowledged what
        is there without it.

        Raises:
            NotFoundError: There is none of that name.
            PreconditionFailedError: Its newest revision is not *expected*, where that is given.
            ConflictError: A rollout of it is active.
        """

    async def save_declarations(self, kept: Sequence[Declaration], *, removed: Collection[DocumentKey]) -> None:
        """Insert or replace *kept*, and forget those whose keys are *removed*."""


@dataclasses.dataclass(frozen=True, slots=True)
class GivenAnswer:
    """What a request was answered with."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AnswerStore(Protocol):
    """What requests with idempotency keys were answered, for a bounded time."""

    async def claim_answer(self, key: str, *, request: str, digest: str, now: dt.datetime) -> GivenAnswer | None:
        """Return what the request *key* was answered with, or None: then the caller is the one to answer it.

        Args:
            key: Unmistakable for any other caller's.
            request: What was asked for, as a person reads it.
            digest: Of all that makes two requests the same.
            now: A claim older than `CLAIMED_FOR` counts for nothing, an answer older than `ANSWERS_KEPT` is forgotten.

        Raises:
            ConflictError: The key was used for another request.
            UnavailableError: Somebody is answering this one; ask again.
        """

    async def keep_answer(self, key: str, answer: GivenAnswer, *, claimed_at: dt.datetime) -> None:
        """Keep what a claimed request was answered with; nothing happens if the claim was lost meanwhile."""

    async def drop_claim(self, key: str, *, claimed_at: dt.datetime) -> None:
        """Let a claimed request be made again: it was refused, or broke off."""


CLAIMED_FOR = dt.timedelta(seconds=30)
"""Longer than requests take: whoever claimed one for longer has died, and so long a client must wait for an answer."""
ANSWERS_KEPT = dt.timedelta(hours=24)


class Store(
    CatalogueStore,
    DeclarationStore,
    RolloutStore,
    GateStore,
    SteeringStore,
    EventLog,
    FleetStore,
    DesiredStore,
    TelemetryStore,
    SampleStore,
    QualityStore,
    ModelStore,
    LeaseStore,
    AnswerStore,
    Protocol,
):
    """Everything that remembers, as one SQL database gives it."""


# -- towards Envoy -----------------------------------------------------------------------------------------------------

NAMED = "+named"
"""Ends the key of a second version in ``versions``, of a type some of whose resources go only to clients that name
them: the hash with these, which such clients acknowledge. The first is without them."""


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledConfig:
    """A `TrafficPlan` as Envoy will read it. The fields are those of `SnapshotRecord`."""

    version: str
    versions: Mapping[str, str]
    content: bytes


class DiscoveryPolls(Protocol):
    """Answers Envoys that poll for their configuration (``api_type: REST``)."""

    def poll(self, resource: str, document: object) -> bytes | None:
        """Answer a `DiscoveryRequest` with a `DiscoveryResponse`, both as JSON; None: the client has all it should.

        Args:
            resource: The last word of the path: clusters, endpoints, listeners or routes.
            document: The request, decoded.

        Raises:
            NotFoundError: There is no such *resource*.
            InvalidInputError: The request is wrong.
            UnavailableError: Nothing can be served yet, or no more clients.
        """


class ConfigCompiler(Protocol):
    """Turns a plan into resources, and refuses what Envoy would refuse."""

    def compile(self, plan: TrafficPlan) -> CompiledConfig:
        """Return the resources of *plan*; equal plans give equal versions.

        Raises:
            InvalidInputError: A reference leads nowhere, or two services claim one name.
        """


class ConfigCheck(Protocol):
    """Asks a real Envoy, where there is one, what it makes of a configuration before the fleet gets it."""

    async def refusal(self, config: CompiledConfig) -> str | None:
        """Return why Envoy would refuse *config*, in its own words; None if it would not, or cannot be asked."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigResource:
    """One resource of a snapshot. *version* is the hash of its content.

    *packed* is the `Any` that goes to Envoy, serialised; None where the content is private and stays in the database.
    One that is *by_name* goes only to clients that name it, which an Envoy does not. A listener names *secrets*.
    """

    name: str
    version: str
    packed: bytes | None
    by_name: bool = False
    secrets: tuple[str, ...] = ()


class ConfigReader(Protocol):
    """Reads what was published, for those who look at the fleet from outside."""

    def read(self, content: bytes) -> Mapping[str, Mapping[str, ConfigResource]]:
        """Return the resources of a snapshot's *content*, by short type name and name.

        Raises:
            InvalidInputError: It cannot be read.
        """

    def document(self, resource: ConfigResource) -> Mapping[str, Any]:
        """Return a resource as JSON, in the words of Envoy's own config_dump; a private one without its content."""


class Publisher(Protocol):
    """Where the projector puts what should be served; streams are woken, nothing blocks."""

    @property
    def served_versions(self) -> Mapping[str, str]:
        """The version of the snapshot that each group is served now; a group without one is absent."""

    @property
    def doubted(self) -> frozenset[str]:
        """Groups of which an Envoy has refused what is served; those that join are served nothing meanwhile."""

    def publish(self, snapshot: SnapshotRecord) -> None:
        """Serve *snapshot* from now on, to every Envoy of its group that is or will be connected.

        Clusters that only the snapshot before it has stay served to each Envoy until that Envoy has acknowledged the
        new listeners and routes: make before break.

        Raises:
            InvalidInputError: It has no listeners or no clusters while the one before it had some.
        """

    def vouch(self, group: str) -> None:
        """What *group* is served is good, whoever refuses it: those that join get it."""

    def assign(self, grouping: Grouping) -> None:
        """Serve each Envoy, present or to come, what its group is served; publish the groups' snapshots first."""
