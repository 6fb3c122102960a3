"""Which Envoys report, which are silent, and which were left behind: presence, apart from what is counted.

An Envoy *reports* if it was heard within 5 s. It is *silent* if it was not, while its stream is open, or for 10 s after
its stream ended (120 s while its xDS stream lives: it serves requests that we do not see); then it is forgotten. An
Envoy that has an xDS stream and never reported is silent too.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable, Collection, Iterator
from typing import Final, Self, TypeAlias

from controlplane.ports import CounterBase
from controlplane.telemetry.reports import Report
from controlplane.telemetry.tally import Heard

EPOCH_TOLERANCE_S: Final = 5
"""Envoy's uptime is in whole seconds and read a moment before the flush; two starts of one node are further apart."""

REPORTING_S: Final = 5.0
"""An Envoy that was heard within this many seconds reports (judge.md section 2.4: no sample for 5 s is a gap)."""

LEFT_S: Final = 10.0
"""How long an Envoy whose stream ended is still expected back."""

MISSED_S: Final = 120.0
"""How long it is, while its xDS stream is open."""

EnvoyKey: TypeAlias = tuple[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """When something happened: *now* for records, *steady* seconds for spans."""

    now: dt.datetime
    steady: float

    @property
    def tick(self) -> int:
        """The unix second."""
        return int(self.now.timestamp())


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Envoy:
    """One Envoy process: what was booked of it, when it was heard, and whether SQL has that."""

    node: str
    epoch: int
    booked: dict[str, int]
    heard_at: dt.datetime
    line: "Line | None" = None
    heard: float = 0.0
    left: float | None = None
    changed: bool = True

    @classmethod
    def of(cls, base: CounterBase) -> Self:
        """Return the Envoy that *base* remembers."""
        return cls(node=base.node, epoch=base.epoch, booked=dict(base.counters), heard_at=base.at)

    @property
    def key(self) -> EnvoyKey:
        """What tells it from every other Envoy process."""
        return (self.node, self.epoch)

    def base(self) -> CounterBase:
        """Return what SQL should remember of it."""
        return CounterBase(node=self.node, epoch=self.epoch, counters=dict(self.booked), at=self.heard_at)

    def is_near(self, epoch: int) -> bool:
        """Whether a start at *epoch* is this one's."""
        return abs(self.epoch - epoch) <= EPOCH_TOLERANCE_S


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Line:
    """One stream. Until it is known whose it is and what was booked of that Envoy, its reports are held as one.

    *whole*: every report so far was a whole flush; only then does a missing counter mean that Envoy dropped it.
    *asked*, *settled*: SQL is being, was read for what another replica may have booked.
    *retired*: the Envoy it belonged to came back on another stream. *twin*: another Envoy with the same id and start
    is booked already.
    """

    node: str
    opened: float
    envoy: Envoy | None = None
    held: Report | None = None
    heard: float = 0.0
    first_flushed_ms: int = 0
    reports: int = 0
    whole: bool = True
    asked: bool = False
    settled: bool = False
    retired: bool = False
    twin: bool = False
    told: set[str] = dataclasses.field(default_factory=set)

    @property
    def epoch(self) -> int | None:
        """The start of its Envoy, by that Envoy's clock, while its reports are held."""
        if self.held is None or self.held.uptime_s is None:
            return None
        return self.held.flushed_ms // 1000 - self.held.uptime_s

    @property
    def waits(self) -> bool:
        """Whether it has reports that are not booked yet."""
        return self.held is not None and self.envoy is None and not (self.twin or self.retired)


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """Everything that goes by one node id: normally one Envoy with one stream."""

    name: str
    envoys: list[Envoy] = dataclasses.field(default_factory=list)
    lines: list[Line] = dataclasses.field(default_factory=list)
    health: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    unwritten: set[str] = dataclasses.field(default_factory=set)
    """Clusters whose health SQL does not have yet."""

    def find(self, epoch: int) -> Envoy | None:
        """Return the Envoy that started at *epoch*, nearly."""
        near = [envoy for envoy in self.envoys if envoy.is_near(epoch)]
        return min(near, key=lambda envoy: abs(envoy.epoch - epoch)) if near else None


class Fleet:
    """The nodes that are here or were a moment ago."""

    def __init__(self, *, connected: Callable[[], Collection[str]], alone: bool) -> None:
        """Begin with nobody.

        Args:
            connected: The ids of the Envoys whose xDS streams are open here.
            alone: Whether every Envoy with an xDS stream here reports here, and to nobody else.
        """
        self._connected = connected
        self._alone = alone
        self._since: dict[str, float] = {}
        self.nodes: dict[str, Node] = {}

    def node(self, name: str) -> Node:
        """Return the node of that name, new or not."""
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = Node(name)
        return node

    def lines(self) -> Iterator[Line]:
        """Walk through all open streams."""
        for node in self.nodes.values():
            yield from node.lines

    def heard(self, steady: float) -> Heard:
        """Return how many Envoys reported, and how many were silent, at a moment."""
        reporting = silent = 0
        connected = self._connected()
        for node in self.nodes.values():
            for envoy in node.envoys:
                if steady - envoy.heard <= REPORTING_S:
                    reporting += 1
                elif is_missed(envoy, connected, steady):
                    silent += 1
            for line in node.lines:
                if line.twin or (line.envoy is None and not line.retired and steady - line.opened > REPORTING_S):
                    silent += 1
        if self._alone:
            silent += sum(1 for name in connected if name not in self.nodes and self._is_overdue(name, steady))
        return Heard(reporting=reporting, silent=silent)

    def look_around(self, steady: float) -> None:
        """Note which Envoys have xDS streams, and since when."""
        self._since = {name: self._since.get(name, steady) for name in self._connected()}

    def forget(self, steady: float) -> tuple[list[Envoy], list[str]]:
        """Drop the Envoys that left and are expected back no more; return them, and the nodes that have none left."""
        connected = self._connected()
        dropped = []
        empty = []
        for node in list(self.nodes.values()):
            for envoy in list(node.envoys):
                overdue = envoy.left is not None and steady - envoy.heard > REPORTING_S
                if overdue and not envoy.changed and not is_missed(envoy, connected, steady):
                    node.envoys.remove(envoy)
                    dropped.append(envoy)
            if not node.envoys and not node.lines:
                del self.nodes[node.name]
                empty.append(node.name)
        return dropped, empty

    def _is_overdue(self, name: str, steady: float) -> bool:
        since = self._since.get(name)
        return since is not None and steady - since > REPORTING_S


def is_missed(envoy: Envoy, connected: Collection[str], steady: float) -> bool:
    """Whether an Envoy that does not report is still expected to."""
    if envoy.left is None:
        return True
    return steady - envoy.left <= (MISSED_S if envoy.node in connected else LEFT_S)
