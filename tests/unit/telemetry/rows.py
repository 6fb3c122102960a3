"""What SQL would hold, as dictionaries: the ledger's tests need its rows, not its transactions."""

from controlplane.ports import Beat, CounterBase, HistogramGap, TelemetryBatch
from controlplane.rollout.windows import VersionTick


class Rows:
    """The rows of all sources."""

    def __init__(self) -> None:
        self.ticks: dict[tuple[str, int, str], VersionTick] = {}
        self.beats: dict[tuple[str, int], Beat] = {}
        self.bases: dict[str, CounterBase] = {}
        self.health: dict[tuple[str, str], tuple[int, int]] = {}
        self.gaps: list[HistogramGap] = []

    def apply(self, batch: TelemetryBatch | None) -> None:
        if batch is None:
            return
        for row in batch.ticks:
            key = (batch.source, row.tick, row.cluster)
            beat = self.beats.get(key[:2])
            assert beat is None or not beat.closed or self.ticks.get(key) == row.counts, "a closed tick changed"
            self.ticks[key] = row.counts
        for beat in batch.beats:
            self.beats[batch.source, beat.tick] = beat
        nodes = [base.node for base in batch.bases]
        assert len(nodes) == len(set(nodes)), "two rows for one key in one statement"
        self.bases.update({base.node: base for base in batch.bases})
        self.health.update({(row.node, row.cluster): (row.healthy, row.total) for row in batch.health})
        self.gaps += [gap for gap in batch.gaps if gap not in self.gaps]

    def total(self, cluster: str) -> VersionTick:
        return sum((row for key, row in self.ticks.items() if key[2] == cluster), VersionTick.zero())

    def at(self, tick: int, cluster: str) -> VersionTick:
        return sum((row for key, row in self.ticks.items() if key[1:] == (tick, cluster)), VersionTick.zero())
