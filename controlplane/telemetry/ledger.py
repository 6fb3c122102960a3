"""From Envoys' reports to rows, each request counted once: the whole of the bookkeeping, without a socket or a clock.

Envoy's counters grow from its start, so what an Envoy did is the difference to what was already booked. What was
booked is written in the same transaction as the counts it led to; whatever dies, and whenever, the next report tells
the difference to what SQL holds, and nothing is lost or counted twice. The rules:

* **Attribution.** Counts belong to the second in which their report arrives here; no two machines' clocks are compared.
  The counters of an outage arrive as one big tick.
* **Which process.** An Envoy is known by its node id and its start, ``flushed - server.uptime``: two readings of one
  clock, hence the same for every replica and over clock steps. Starts within `EPOCH_TOLERANCE_S` are the same Envoy.
* **Reset.** A counter below its base has begun anew (its cluster was removed and came back): it counts from zero. So
  does one that was missing from a report in between. (Were a cluster removed, added and used more than ever before,
  all between two reports, the part up to the old value would be missed; but it is we who remove clusters.)
* **Never seen.** An Envoy that started while we listened, or after SQL last heard from any Envoy, counts from its first
  request. One that was running before (a new database, an Envoy newly pointed here) starts at what it says now: its
  history is not this tick's traffic.
* **Two with one id.** With different starts they are booked apart, and it is said. With one start they cannot be told
  apart after a restart of ours: the second is not booked and counts as silent, so that rollouts hold, and it is said.
* **Codes** (answers by single status) say more of answers that are counted already, and never count one. Books that an
  older release kept have none: see `adopt_codes`. A gRPC status may wait for a later tick than its own: see `book`.
* **Histograms** are per flush: those that Envoy sent into an outage are gone. A gap is noted when the first report of a
  new stream completes more requests than its histograms hold. (A client that hangs up half-way through an answer is
  completed and has no latency, so a gap may be noted where none was; never the other way round.)
"""

import dataclasses
import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from controlplane.ports import Beat, ClusterHealth, ClusterTick, CounterBase, HistogramGap, TelemetryBatch
from controlplane.telemetry.counters import adopt_codes, book, completed, drop_missing
from controlplane.telemetry.fleet import EPOCH_TOLERANCE_S, REPORTING_S, Envoy, EnvoyKey, Fleet, Line, Moment, Node
from controlplane.telemetry.reports import Report
from controlplane.telemetry.tally import Heard, Tally

QUIET_S: Final = 3.0
"""A stream that was silent for so long is taken for dead when its Envoy opens another one."""

STARTUP_SLACK_S: Final = 5.0
"""How much earlier than us an Envoy may have started and still count from its first request."""

REMEMBERED_S: Final = 24 * 3600.0
"""How long counters of an Envoy that left are kept in memory; and the longest history that may pass for an outage's."""

REWRITE_S: Final = 30.0
"""Health that did not change is written again after so long, and so are counters: SQL's pruning goes by their age."""


@dataclasses.dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person may have to act on: an event's name and its fields."""

    event: str
    fields: Mapping[str, str]


class Ledger:
    """Books reports and says what to write. Every method is told the moment; none blocks."""

    def __init__(
        self,
        *,
        source: str,
        at: Moment,
        settle_s: float = 0.0,
        connected: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """Begin with an empty book.

        Args:
            source: The name of this process's rows, used by no other process ever.
            at: Now.
            settle_s: Zero if no other process receives telemetry for the same database. Otherwise how long after an
                Envoy came over from another replica that one may still be writing what it heard.
            connected: The ids of the Envoys whose xDS streams are open here.
        """
        self._source = source
        self._began = at
        self._settle_s = settle_s
        self._tally = Tally(at.tick)
        self._fleet = Fleet(connected=connected, alone=settle_s == 0)
        self._known = False
        self._finished = False
        self._stored: dict[EnvoyKey, CounterBase] = {}
        self._last_heard: dt.datetime | None = None
        self._rewritten = at.steady
        self._gaps: list[HistogramGap] = []
        self._unconfirmed: TelemetryBatch | None = None
        self._gone: set[str] = set()
        self.notices: list[Notice] = []

    # -- streams -------------------------------------------------------------------------------------------------------

    def open(self, name: str, *, at: Moment) -> Line:
        """Begin a stream of the Envoy with this node id."""
        line = Line(node=name, opened=at.steady)
        self._fleet.node(name).lines.append(line)
        return line

    def take(self, line: Line, report: Report, *, at: Moment) -> None:
        """Book a report, or hold it until it can be booked."""
        if self._finished:
            return
        self.roll(at)
        line.heard = at.steady
        line.reports += 1
        line.whole = line.whole and report.uptime_s is not None
        line.first_flushed_ms = line.first_flushed_ms or report.flushed_ms
        if report.foreign_edges:
            self._tell(
                line,
                "telemetry.histograms_refused",
                problem="its histograms have other buckets than ours, so its latencies are not counted",
                fix="regenerate the bootstrap and restart this Envoy",
            )
        if line.retired:
            self._refuse_twin(line)
        if line.twin:
            return
        if line.envoy is None:
            line.held = report if line.held is None else line.held.followed_by(report)
            self._admit(line, at=at)
        else:
            self._expose_twins(line.envoy, report)
            self._book(line, line.envoy, report, at=at)

    def close(self, line: Line, *, at: Moment) -> None:
        """End a stream."""
        self.roll(at)
        self._fleet.node(line.node).lines.remove(line)
        envoy = line.envoy
        if envoy is not None:
            envoy.line, envoy.left = None, at.steady
            self._tally.set_in_flight(envoy.key, {})

    # -- what SQL knows ------------------------------------------------------------------------------------------------

    def wants_bases(self, *, at: Moment) -> bool:
        """Whether a stream waits for what SQL holds of its Envoy; then read it, and `learn`."""
        for line in self._fleet.lines():
            line.asked = line.asked or self._is_settled(line, at=at)
        return not self._known or any(line.asked and not line.settled for line in self._fleet.lines())

    def learn(self, bases: Iterable[CounterBase], *, at: Moment) -> None:
        """Take in what SQL holds, read after `wants_bases` said so, and book what waited for it."""
        self.roll(at)
        for line in self._fleet.lines():
            line.settled = line.settled or line.asked
        for base in bases:
            if self._last_heard is None or base.at > self._last_heard:
                self._last_heard = base.at
            node = self._fleet.nodes.get(base.node)
            envoy = node.find(base.epoch) if node else None
            if envoy is None:
                self._stored[base.node, base.epoch] = base
            elif envoy.line is None and not envoy.changed:
                envoy.booked = dict(base.counters)  # another replica may have booked more
        self._known = True
        self._admit_waiting(at=at)

    def batch(self, *, at: Moment) -> TelemetryBatch | None:
        """Return what to write, or None. The same batch again until it is confirmed: what SQL made of it is unknown."""
        self.roll(at)
        if self._unconfirmed is None:
            ticks, beats = self._tally.take_changes(self.heard(at=at))
            self._unconfirmed = self._bind(ticks, beats, at=at)
        return self._unconfirmed

    def finish(self, *, at: Moment) -> None:
        """Close the current tick before its time and book nothing any more: what is still to come is told again."""
        self.roll(at)
        self._tally.finish(self.heard(at=at))
        self._finished = True

    @property
    def is_unconfirmed(self) -> bool:
        """Whether the last batch is not known to be written."""
        return self._unconfirmed is not None

    def confirm(self) -> None:
        """Take the last batch for written."""
        self._unconfirmed = None

    def take_gone(self) -> tuple[str, ...]:
        """Return, once, the nodes that were forgotten since the last call and have not come back."""
        gone = tuple(sorted(self._gone - self._fleet.nodes.keys()))
        self._gone.clear()
        return gone

    # -- time ----------------------------------------------------------------------------------------------------------

    def roll(self, at: Moment) -> None:
        """Close the ticks that are over, and look after what only time changes."""
        if at.tick <= self._tally.tick or self._finished:
            return
        self._fleet.look_around(at.steady)
        now_s = at.now.timestamp()
        self._tally.roll(at.tick, lambda tick: self._fleet.heard(at.steady - (now_s - (tick + 1))))
        dropped, empty = self._fleet.forget(at.steady)
        self._stored.update((envoy.key, envoy.base()) for envoy in dropped)
        self._gone.update(empty)
        if at.tick % 600 == 0:
            oldest = at.now - dt.timedelta(seconds=REMEMBERED_S)
            self._stored = {key: base for key, base in self._stored.items() if base.at > oldest}
        self._admit_waiting(at=at)

    def heard(self, *, at: Moment) -> Heard:
        """Return how many Envoys report, and how many are silent."""
        return self._fleet.heard(at.steady)

    # -- whose stream it is --------------------------------------------------------------------------------------------

    def _is_settled(self, line: Line, *, at: Moment) -> bool:
        """Whether nobody writes counters of the line's Envoy any more, so that SQL may be read for them."""
        if not self._settle_s or self._unconfirmed is not None or not line.waits or line.epoch is None:
            return False
        envoy = self._fleet.node(line.node).find(line.epoch)
        return at.steady - line.opened >= self._settle_s and (envoy is None or not envoy.changed)

    def _admit_waiting(self, *, at: Moment) -> None:
        for line in list(self._fleet.lines()):
            if line.waits:
                self._admit(line, at=at)

    def _admit(self, line: Line, *, at: Moment) -> None:
        """Give the line its Envoy and book what it held, if that can be done now."""
        report, epoch = line.held, line.epoch
        if report is None or epoch is None:
            if at.steady - line.opened > REPORTING_S:
                self._tell(
                    line,
                    "telemetry.envoy_unknown",
                    problem="its reports lack server.uptime, so a restart of it could not be told; nothing is counted",
                    fix="regenerate the bootstrap and restart this Envoy",
                )
            return
        if not self._known or (self._settle_s and not line.settled):
            return
        node = self._fleet.node(line.node)
        envoy = node.find(epoch)
        if envoy is not None and envoy.line is not None:
            if at.steady - envoy.heard <= QUIET_S:
                return  # two streams: the next report on the old one, or its absence, will tell what this means
            envoy.line.retired, envoy.line.envoy = True, None
        if envoy is None:
            envoy = self._take_stored(line.node, epoch) or self._begin(line.node, epoch, report, at=at)
            if envoy is None:  # its past is not ours; the histograms belong to that past
                envoy = Envoy(node=line.node, epoch=epoch, booked=dict(report.counters), heard_at=at.now)
                report = dataclasses.replace(report, latency={})
            node.envoys.append(envoy)
        line.envoy, line.held, envoy.line, envoy.left = envoy, None, line, None
        envoy.changed |= adopt_codes(envoy.booked, report)
        if completed(envoy.booked, report) > sum(sum(counts) for counts in report.latency.values()):
            self._gaps.append(HistogramGap(node=envoy.node, since=min(envoy.heard_at, at.now), until=at.now))
        self._book(line, envoy, report, at=at)

    def _begin(self, name: str, epoch: int, report: Report, *, at: Moment) -> Envoy | None:
        """Return an Envoy that counts from its first request, or None if it was running before anybody listened."""
        uptime_s = report.uptime_s or 0
        ours = uptime_s <= at.steady - self._began.steady + STARTUP_SLACK_S
        in_outage = self._last_heard is not None and uptime_s <= (at.now - self._last_heard).total_seconds()
        if uptime_s > REMEMBERED_S or not (ours or in_outage):
            return None
        return Envoy(node=name, epoch=epoch, booked={}, heard_at=at.now - dt.timedelta(seconds=uptime_s))

    def _take_stored(self, name: str, epoch: int) -> Envoy | None:
        near = [key for key in self._stored if key[0] == name and abs(key[1] - epoch) <= EPOCH_TOLERANCE_S]
        return Envoy.of(self._stored.pop(min(near, key=lambda key: abs(key[1] - epoch)))) if near else None

    def _expose_twins(self, envoy: Envoy, report: Report) -> None:
        """Refuse the streams that wait for *envoy* although it reports on its own, and later: they are another's."""
        for line in self._fleet.node(envoy.node).lines:
            epoch = line.epoch
            if line.waits and epoch is not None and envoy.is_near(epoch) and report.flushed_ms > line.first_flushed_ms:
                self._refuse_twin(line)

    def _refuse_twin(self, line: Line) -> None:
        line.twin, line.retired, line.held = True, False, None
        self._tell(
            line,
            "telemetry.twin_refused",
            problem="another Envoy with this node id, started in the same seconds, already reports; this one is not "
            "counted, and rollouts hold",
            fix="give each Envoy a node id of its own",
        )

    def _warn_of_namesakes(self, node: Node, line: Line, envoy: Envoy) -> None:
        for other in node.envoys:
            # An old stream may end after the new one began; that both go on speaking is what tells two from one.
            if other is not envoy and other.line is not None and other.heard > line.opened and line.reports > 1:
                self._tell(
                    line,
                    "telemetry.node_id_shared",
                    problem="two live Envoys report under this node id; both are counted, but after a restart of the "
                    "control plane one of them begins anew",
                    fix="give each Envoy a node id of its own",
                )

    def _tell(self, line: Line, event: str, *, problem: str, fix: str) -> None:
        if event not in line.told:
            line.told.add(event)
            self.notices.append(Notice(event, {"node": line.node, "problem": problem, "fix": fix}))

    # -- counting ------------------------------------------------------------------------------------------------------

    def _book(self, line: Line, envoy: Envoy, report: Report, *, at: Moment) -> None:
        dropped = line.whole and line.reports > 1 and drop_missing(envoy.booked, report)
        envoy.changed |= book(envoy.booked, report, self._tally) or dropped
        for cluster, counts in report.latency.items():
            self._tally.add_latency(cluster, counts)
        self._tally.set_in_flight(envoy.key, report.active)
        envoy.heard, envoy.heard_at = line.heard, at.now
        node = self._fleet.node(envoy.node)
        _note_health(node, report.members, whole=line.whole and line.reports > 1)
        if len(node.envoys) > 1:
            self._warn_of_namesakes(node, line, envoy)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _bind(self, ticks: tuple[ClusterTick, ...], beats: tuple[Beat, ...], *, at: Moment) -> TelemetryBatch | None:
        rewrite = at.steady - self._rewritten >= REWRITE_S
        if rewrite:
            self._rewritten = at.steady
        bases: list[CounterBase] = []
        health: list[ClusterHealth] = []
        for _, node in sorted(self._fleet.nodes.items()):  # in one order: replicas that write at once must not deadlock
            bases += _take_base(node, rewrite=rewrite)
            health += _take_health(node, rewrite=rewrite)
        gaps = tuple(self._gaps)
        self._gaps.clear()
        if not (ticks or beats or bases or health or gaps):
            return None
        return TelemetryBatch(
            source=self._source, ticks=ticks, beats=beats, bases=tuple(bases), health=tuple(health), gaps=gaps
        )


def _note_health(node: Node, members: Mapping[str, tuple[int, int]], *, whole: bool) -> None:
    for cluster, now in members.items():
        if node.health.get(cluster) != now:
            node.health[cluster] = now
            node.unwritten.add(cluster)
    if whole and len(node.health) > len(members):
        for cluster in node.health.keys() - members.keys():
            if node.health[cluster] != (0, 0):  # the cluster was removed
                node.health[cluster] = (0, 0)
                node.unwritten.add(cluster)


def _take_health(node: Node, *, rewrite: bool) -> list[ClusterHealth]:
    if rewrite:
        node.unwritten.update(node.health)
    rows = [ClusterHealth(node.name, cluster, *node.health[cluster]) for cluster in sorted(node.unwritten)]
    node.unwritten.clear()
    return rows


def _take_base(node: Node, *, rewrite: bool) -> list[CounterBase]:
    """Return the counters to write; of Envoys that share the id, those of the youngest: SQL has one row per node."""
    youngest = max(node.envoys, key=lambda envoy: envoy.epoch, default=None)
    due = youngest is not None and (youngest.changed or (rewrite and youngest.line is not None))
    for envoy in node.envoys:
        envoy.changed = False
    return [youngest.base()] if due and youngest is not None else []
