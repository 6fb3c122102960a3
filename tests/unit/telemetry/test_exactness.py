"""Whatever dies, and whenever: each request is counted once, and a closed tick stays as it is (`Rows` asserts that).

Envoys serve, flush, lose streams, restart and drop clusters; the control plane is killed and started; SQL takes a
batch, refuses it, or takes it and fails to say so.
"""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.telemetry.fleet import Line
from controlplane.telemetry.ledger import Ledger
from tests.unit.telemetry.envoys import FakeEnvoy, ManualClock
from tests.unit.telemetry.rows import Rows

NODES = ("a", "b")
CLUSTERS = ("v1", "v2")
STATUSES = (200, 404, 422, 503)
GRPC_STATUSES = (None, 0, 5, 14)
Counts = Counter[tuple[str, str]]


def _statistic(code: str) -> str:
    return code.replace("-", ".") if code.startswith("grpc") else f"upstream_rq_{code}"


class Exactness(RuleBasedStateMachine):
    """The truth beside the books: *buried* is what dead Envoys, and removed clusters, had reported."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.rows = Rows()
        self.envoys: dict[str, FakeEnvoy] = {}
        self.lines: dict[str, Line] = {}
        self.half_open: list[Line] = []
        self.ledger: Ledger | None = None
        self.generation = 0
        self.buried: Counts = Counter()

    @initialize()
    def begin(self) -> None:
        self.start_plane()
        for node in NODES:
            self.start_envoy(node)

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(
        node=st.sampled_from(NODES),
        cluster=st.sampled_from(CLUSTERS),
        status=st.sampled_from(STATUSES),
        grpc=st.sampled_from(GRPC_STATUSES),
        count=st.integers(1, 50),
    )
    def serve(self, node: str, cluster: str, status: int, grpc: int | None, count: int) -> None:
        self.envoys[node].serve(cluster, count, status=status, grpc=grpc)

    @rule(node=st.sampled_from(NODES))
    def flush(self, node: str) -> None:
        report = self.envoys[node].report()
        if self.ledger is None:
            return
        if node not in self.lines:
            self.lines[node] = self.ledger.open(node, at=self.clock.moment())
        self.ledger.take(self.lines[node], report, at=self.clock.moment())

    @rule(seconds=st.sampled_from([0.1, 0.25, 1.0, 4.0, 20.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(node=st.sampled_from(NODES), seen=st.booleans())
    def lose_stream(self, node: str, *, seen: bool) -> None:
        line = self.lines.pop(node, None)
        if line is None or self.ledger is None:
            return
        if seen:
            self.ledger.close(line, at=self.clock.moment())
        else:
            self.half_open.append(line)

    @rule(outcome=st.sampled_from(["taken", "taken", "refused", "taken and not said"]))
    def write(self, outcome: str) -> None:
        if self.ledger is None:
            return
        if self.ledger.wants_bases(at=self.clock.moment()):
            self.ledger.learn(tuple(self.rows.bases.values()), at=self.clock.moment())
        batch = self.ledger.batch(at=self.clock.moment())
        if outcome != "refused":
            self.rows.apply(batch)
        if outcome == "taken":
            self.ledger.confirm()

    @rule(politely=st.booleans())
    def kill_plane(self, *, politely: bool) -> None:
        if self.ledger is not None and politely:
            self.ledger.finish(at=self.clock.moment())
            self.write("taken")
            self.write("taken")
        self.ledger = None
        self.lines.clear()
        self.half_open.clear()

    @precondition(lambda self: self.ledger is None)
    @rule()
    def start_plane(self) -> None:
        self.generation += 1
        self.ledger = Ledger(source=str(self.generation), at=self.clock.moment())

    @precondition(lambda self: self.ledger is not None)
    @rule(node=st.sampled_from(NODES))
    def restart_envoy(self, node: str) -> None:
        """It reports everything first: what an Envoy takes to its grave is lost, and no business of these books."""
        self.settle()
        self.bury(node, CLUSTERS)
        self.lose_stream(node, seen=True)
        self.clock.advance(6)
        self.start_envoy(node)

    @precondition(lambda self: self.ledger is not None)
    @rule(node=st.sampled_from(NODES), cluster=st.sampled_from(CLUSTERS))
    def remove_cluster(self, node: str, cluster: str) -> None:
        """It is removed and comes back while we listen, as it must: it is we who remove it."""
        self.settle()
        self.bury(node, [cluster])
        self.envoys[node].remove_cluster(cluster)
        self.flush(node)
        self.write("taken")

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        truth = self.truth()
        for cluster in CLUSTERS:
            total = self.rows.total(cluster)
            assert total.started <= truth[cluster, "upstream_rq_total"]
            assert total.errors <= truth[cluster, "upstream_rq_5xx"]
            assert sum(total.latency) <= total.started
            for code, count in total.codes:
                assert count <= truth[cluster, _statistic(code)]

    def teardown(self) -> None:
        if not self.envoys:
            return
        if self.ledger is None:
            self.start_plane()
        self.settle()
        truth = self.truth()
        for cluster in CLUSTERS:
            total = self.rows.total(cluster)
            answered = sum(truth[cluster, f"upstream_rq_{digit}xx"] for digit in "245")
            assert (total.started, total.completed, total.errors, total.active) == (
                truth[cluster, "upstream_rq_total"],
                answered,
                truth[cluster, "upstream_rq_5xx"],
                0,
            )
            codes = {code: truth[cluster, _statistic(code)] for code in ("404", "422", "503", "grpc-5", "grpc-14")}
            assert dict(total.codes) == {code: count for code, count in codes.items() if count}
            assert sum(total.latency) == total.completed or self.rows.gaps, "latencies are missing and it is not said"

    # -- how ---------------------------------------------------------------------------------------------------------

    def start_envoy(self, node: str) -> None:
        self.envoys[node] = FakeEnvoy(self.clock, node=node)
        self.settle()

    def settle(self) -> None:
        """Let every Envoy report, over a stream of its own, and SQL take it all."""
        self.write("taken")
        for node in self.envoys:
            self.flush(node)
        self.clock.advance(3.5)  # a half-open stream is known for dead
        for node in self.envoys:
            self.flush(node)
        self.write("taken")
        self.write("taken")

    def bury(self, node: str, clusters: tuple[str, ...] | list[str]) -> None:
        self.buried.update({key: n for key, n in self.envoys[node].counters.items() if key[0] in clusters})

    def truth(self) -> Counts:
        return sum((envoy.counters for envoy in self.envoys.values()), self.buried.copy())


TestExactness = Exactness.TestCase
TestExactness.settings = settings(max_examples=60, stateful_step_count=40)
