"""What the whole fleet did, per cluster and tick, until SQL has it.

Ticks only move forward: a clock that is set back stops the count of ticks until it has caught up, since a closed tick
must not change any more. What is counted meanwhile belongs to the tick that stands.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Final

from controlplane.ports import Beat, ClusterTick
from controlplane.rollout.windows import VersionTick
from controlplane.telemetry.reports import FAILED, STARTED

MAX_PENDING: Final = 600
"""Ticks that wait for an unreachable database; beyond them the oldest are added up: nothing is lost but the detail."""

MAX_MISSED: Final = 120
"""Seconds we may have slept and still vouch for each; after more (a suspended machine) the ticks between stay blank."""


@dataclasses.dataclass(slots=True)
class _Row:
    completed: int = 0
    errors: int = 0
    started: int = 0
    active: int = 0
    latency: tuple[int, ...] | None = None
    codes: dict[str, int] = dataclasses.field(default_factory=dict)
    changed: bool = True

    def add(self, statistic: str, count: int) -> None:
        if statistic == STARTED:
            self.started += count
        else:
            self.completed += count
            if statistic == FAILED:
                self.errors += count
        self.changed = True

    def add_code(self, code: str, count: int) -> None:
        self.codes[code] = self.codes.get(code, 0) + count
        self.changed = True

    def room(self) -> int:
        return max(0, self.completed - sum(count for code, count in self.codes.items() if code.startswith("grpc-")))

    def add_latency(self, counts: tuple[int, ...]) -> None:
        mine = self.latency
        self.latency = counts if mine is None else tuple(a + b for a, b in zip(mine, counts, strict=True))
        self.changed = True

    def set_active(self, active: int) -> None:
        if active != self.active:
            self.active = active
            self.changed = True

    def absorb(self, other: "_Row") -> None:
        self.completed += other.completed
        self.errors += other.errors
        self.started += other.started
        if other.latency is not None:
            self.add_latency(other.latency)
        for code, count in other.codes.items():
            self.add_code(code, count)
        self.changed = True

    def value(self) -> VersionTick:
        codes = tuple(sorted(self.codes.items()))
        if self.latency is None:
            return VersionTick(self.completed, self.errors, self.started, self.active, codes=codes)
        return VersionTick(self.completed, self.errors, self.started, self.active, self.latency, codes)


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """To how many Envoys we listened at a moment, and how many of them should have spoken and did not."""

    reporting: int
    silent: int


class Tally:
    """Counts of the current tick and of those that are not written yet."""

    def __init__(self, tick: int) -> None:
        self.tick = tick
        self._rows: dict[int, dict[str, _Row]] = {tick: {}}
        self._beats: dict[int, Beat] = {}
        self._written_beat: Beat | None = None
        self._attempted = tick
        self._finished = False
        self._in_flight: dict[Hashable, Mapping[str, int]] = {}
        self._active: dict[str, int] = {}

    def add(self, cluster: str, statistic: str, count: int) -> None:
        """Count requests of a cluster in the current tick."""
        self._row(cluster).add(statistic, count)

    def add_code(self, cluster: str, code: str, count: int) -> None:
        """Say of requests of the current tick, or of earlier ones, that they ended with this status."""
        self._row(cluster).add_code(code, count)

    def room(self, cluster: str) -> int:
        """How many more requests of the current tick may still be said to have ended with a gRPC status."""
        row = self._rows[self.tick].get(cluster)
        return 0 if row is None else row.room()

    def add_latency(self, cluster: str, counts: tuple[int, ...]) -> None:
        """Count answered requests per latency bucket in the current tick."""
        self._row(cluster).add_latency(counts)

    def set_in_flight(self, envoy: Hashable, active: Mapping[str, int]) -> None:
        """Replace what one Envoy has in flight, per cluster; an empty mapping forgets that Envoy."""
        before = self._in_flight.pop(envoy, {})
        for cluster in before.keys() | active.keys():
            total = self._active.get(cluster, 0) + active.get(cluster, 0) - before.get(cluster, 0)
            if total:
                self._active[cluster] = total
            else:
                self._active.pop(cluster, None)
        if active:
            self._in_flight[envoy] = active

    def roll(self, tick: int, heard: Callable[[int], Heard]) -> None:
        """Move on to *tick*, closing every tick before it; *heard* tells how the fleet was at a tick's end."""
        if tick <= self.tick:
            return
        if tick - self.tick > MAX_MISSED:
            self._close(heard(self.tick))
            self._begin(tick)
        while self.tick < tick:
            self._close(heard(self.tick))
            self._begin(self.tick + 1)
        while len(self._rows) > MAX_PENDING:
            self._thin_out()

    def finish(self, heard: Heard) -> None:
        """Close the current tick for good, although its second is not over."""
        self._close(heard)
        self._finished = True

    def take_changes(self, heard: Heard) -> tuple[tuple[ClusterTick, ...], tuple[Beat, ...]]:
        """Return the rows and beats that SQL does not have yet, the current tick's included, and take them for written.

        The caller keeps what it got until SQL has it.
        """
        self._show_active()
        beat = Beat(tick=self.tick, reporting=heard.reporting, silent=heard.silent, closed=False)
        if beat != self._written_beat and not self._finished:
            self._beats[self.tick] = self._written_beat = beat
        beats = tuple(self._beats.values())
        ticks = []
        for tick, rows in self._rows.items():
            for cluster, row in rows.items():
                if row.changed:
                    ticks.append(ClusterTick(cluster=cluster, tick=tick, counts=row.value()))
                    row.changed = False
        self._beats.clear()
        self._rows = {self.tick: self._rows[self.tick]}
        self._attempted = self.tick
        return tuple(ticks), beats

    def _row(self, cluster: str) -> _Row:
        rows = self._rows[self.tick]
        row = rows.get(cluster)
        if row is None:
            row = rows[cluster] = _Row()
        return row

    def _show_active(self) -> None:
        rows = self._rows[self.tick]
        for cluster, row in rows.items():
            row.set_active(self._active.get(cluster, 0))
        for cluster in self._active.keys() - rows.keys():
            self._row(cluster).set_active(self._active[cluster])

    def _close(self, heard: Heard) -> None:
        self._show_active()
        self._beats[self.tick] = Beat(tick=self.tick, reporting=heard.reporting, silent=heard.silent, closed=True)

    def _begin(self, tick: int) -> None:
        self.tick = tick
        self._rows[tick] = {}

    def _thin_out(self) -> None:
        """Add the oldest tick that SQL cannot know of to the one after it."""
        unknown = (tick for tick in self._rows if tick > self._attempted)
        oldest, heir = next(unknown), next(unknown)
        for cluster, row in self._rows.pop(oldest).items():
            self._rows[heir].setdefault(cluster, _Row()).absorb(row)
        self._beats.pop(oldest, None)
