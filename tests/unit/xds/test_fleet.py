"""What Envoys run becomes rows: the newest of each node, soon, and whatever the database does."""

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from controlplane.errors import UnavailableError
from controlplane.ports import EnvoyAnswer, NodeStatus, PastRefusal
from controlplane.xds.channel import Acked, Level, Nacked, Node
from controlplane.xds.fleet import MAX_NAMED, Fleet
from controlplane.xds.kinds import Kind
from controlplane.xds.metrics import XdsMetrics
from tests.builders import NOW, seconds
from tests.fakes import ManualClock

NODE = Node("n1", "edge", is_envoy=True)


@dataclasses.dataclass
class Rows:
    """Keeps what was written; fails as often as told."""

    failures: int = 0
    batches: list[tuple[NodeStatus, ...]] = dataclasses.field(default_factory=list)
    answers: list[EnvoyAnswer] = dataclasses.field(default_factory=list)
    written: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    async def record_nodes(self, nodes: Sequence[NodeStatus], *, answers: Sequence[EnvoyAnswer] = ()) -> None:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("the database is away")
        self.batches.append(tuple(nodes))
        self.answers.extend(answers)
        self.written.set()


@dataclasses.dataclass
class Parts:
    fleet: Fleet
    rows: Rows
    clock: ManualClock
    registry: CollectorRegistry
    acks: list[tuple[str, str, str, float]]


def make() -> Parts:
    rows, clock, registry = Rows(), ManualClock(), CollectorRegistry()
    acks: list[tuple[str, str, str, float]] = []
    fleet = Fleet(
        store=rows,
        clock=clock,
        replica="r1",
        metrics=XdsMetrics(registry),
        on_ack=lambda *ack: acks.append(ack),
    )
    return Parts(fleet, rows, clock, registry, acks)


async def test_many_changes_of_a_node_are_one_row_with_the_last() -> None:
    parts = make()
    link = parts.fleet.connected(NODE, variant="delta")
    for number in range(100):
        parts.fleet.moved(link, Kind.RDS, Level(sent=f"v{number}"))
    parts.clock.move(seconds(5))
    parts.fleet.moved(link, Kind.RDS, Level(sent="v99", acked="v99"))
    await parts.fleet.write()
    ((row,),) = parts.rows.batches
    assert (row.node, row.cluster, row.replica, row.variant) == ("n1", "edge", "r1", "delta")
    assert (row.connected_at, row.disconnected_at) == (NOW, None)
    status = row.types["rds"]
    assert (status.sent, status.acked, status.acked_at) == ("v99", "v99", NOW + seconds(5))


async def test_the_time_of_an_acknowledgement_stays_while_its_version_does() -> None:
    parts = make()
    link = parts.fleet.connected(NODE, variant="delta")
    parts.fleet.moved(link, Kind.RDS, Level(sent="a", acked="a"))
    parts.clock.move(seconds(5))
    parts.fleet.moved(link, Kind.RDS, Level(sent="b", acked="a", nacked="b", words="bad"))
    await parts.fleet.write()
    status = parts.rows.batches[0][0].types["rds"]
    assert (status.acked_at, status.nacked, status.words) == (NOW, "b", "bad")


async def test_the_last_refusal_stays_when_the_client_is_back_in_step() -> None:
    parts = make()
    link = parts.fleet.connected(NODE, variant="delta")
    parts.fleet.moved(link, Kind.RDS, Level(sent="b", acked="a", nacked="b", words="bad"))
    refusal = link.types["rds"].last_refusal
    assert refusal == PastRefusal("b", "bad", NOW)
    parts.clock.move(seconds(5))
    parts.fleet.moved(link, Kind.RDS, Level(sent="a", acked="a"))
    assert (link.types["rds"].nacked, link.types["rds"].last_refusal) == ("", refusal)
    parts.fleet.moved(link, Kind.RDS, Level(sent="c", acked="a", nacked="c", words="worse"))
    assert link.types["rds"].last_refusal == PastRefusal("c", "worse", NOW + seconds(5))


async def test_a_node_that_left_says_when() -> None:
    parts = make()
    link = parts.fleet.connected(NODE, variant="sotw")
    await parts.fleet.write()
    parts.clock.move(seconds(7))
    parts.fleet.disconnected(link)
    await parts.fleet.write()
    assert parts.rows.batches[-1][0].disconnected_at == NOW + seconds(7)


async def test_of_two_streams_of_a_node_the_newest_counts_until_it_ends() -> None:
    parts = make()
    old = parts.fleet.connected(NODE, variant="sotw")
    new = parts.fleet.connected(NODE, variant="delta")
    parts.fleet.moved(old, Kind.RDS, Level(acked="old"))
    parts.fleet.moved(new, Kind.RDS, Level(acked="new"))
    await parts.fleet.write()
    assert parts.rows.batches[-1][0].types["rds"].acked == "new"
    parts.fleet.disconnected(new)
    await parts.fleet.write()
    row = parts.rows.batches[-1][0]
    assert (row.types["rds"].acked, row.variant, row.disconnected_at) == ("old", "sotw", None)
    assert parts.registry.get_sample_value("hueshift_xds_streams_superseded_total") == 1


async def test_what_could_not_be_written_is_written_later_with_what_came_since() -> None:
    parts = make()
    parts.rows.failures = 2
    link = parts.fleet.connected(NODE, variant="delta")
    gone = parts.fleet.connected(Node("n2", "edge", is_envoy=True), variant="delta")
    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(parts.fleet.run())
        parts.fleet.moved(link, Kind.RDS, Level(acked="a"))
        parts.fleet.disconnected(gone)
        async with asyncio.timeout(10):
            await parts.rows.written.wait()
        loop.cancel()
    rows = {row.node: row for row in parts.rows.batches[0]}
    assert rows["n1"].types["rds"].acked == "a"
    assert rows["n2"].disconnected_at is not None


async def test_a_node_that_came_back_before_its_leaving_was_written_is_connected() -> None:
    parts = make()
    parts.rows.failures = 1
    parts.fleet.disconnected(parts.fleet.connected(NODE, variant="delta"))
    try:
        await parts.fleet.write()
    except UnavailableError:
        parts.fleet.connected(NODE, variant="delta")
    await parts.fleet.write()
    assert parts.rows.batches[-1][0].disconnected_at is None


async def test_answers_are_counted_and_told() -> None:
    parts = make()
    link = parts.fleet.connected(NODE, variant="delta")
    parts.fleet.reacted(link, Acked(Kind.RDS, "v1", 0.004))
    parts.fleet.reacted(link, Nacked(Kind.CDS, "v2", "bad"))
    assert parts.acks == [("n1", "rds", "v1", 1000.0)]
    value = parts.registry.get_sample_value
    assert value("hueshift_xds_push_to_ack_seconds_bucket", {"type": "rds", "le": "0.005"}) == 1
    assert value("hueshift_xds_nacks_total", {"type": "cds"}) == 1


async def test_the_same_answer_of_many_is_told_once_also_when_the_database_was_away() -> None:
    parts = make()
    links = [
        parts.fleet.connected(dataclasses.replace(NODE, id=f"n{number}"), variant="delta")
        for number in range(MAX_NAMED + 5)
    ]
    for link in links:
        parts.fleet.reacted(link, Acked(Kind.RDS, "v1", 0.004))
    parts.fleet.reacted(links[0], Nacked(Kind.CDS, "v2", "bad"))
    parts.rows.failures = 1
    with pytest.raises(UnavailableError):
        await parts.fleet.write()
    parts.fleet.reacted(links[0], Acked(Kind.RDS, "v1", 0.004))
    await parts.fleet.write()
    told = [(each.kind, each.version, each.acked, each.words, each.count) for each in parts.rows.answers]
    assert told == [("rds", "v1", True, "", MAX_NAMED + 6), ("cds", "v2", False, "bad", 1)]
    assert parts.rows.answers[0].nodes == tuple(f"n{number}" for number in range(MAX_NAMED))
    parts.rows.answers.clear()
    parts.fleet.disconnected(links[0])
    await parts.fleet.write()
    assert parts.rows.answers == []


async def test_batches_are_bounded() -> None:
    parts = make()
    for number in range(1200):
        parts.fleet.connected(Node(f"n{number}", "edge", is_envoy=True), variant="delta")
    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(parts.fleet.run())
        async with asyncio.timeout(10):
            while sum(map(len, parts.rows.batches)) < 1200:
                parts.rows.written.clear()
                await parts.rows.written.wait()
        loop.cancel()
    assert [len(batch) for batch in parts.rows.batches] == [1_000, 200]


def test_clients_are_counted_by_their_worst_type() -> None:
    parts = make()

    def counted() -> dict[str, float | None]:
        return {
            state: parts.registry.get_sample_value("hueshift_xds_proxies", {"state": state})
            for state in ("synced", "waiting", "nacked")
        }

    links = [parts.fleet.connected(Node(name, "edge", is_envoy=True), variant="delta") for name in ("a", "b", "c")]
    for link in links:
        parts.fleet.moved(link, Kind.CDS, Level(sent="v1", acked="v1"))
    parts.fleet.moved(links[1], Kind.RDS, Level(sent="v2", acked="v1"))
    parts.fleet.moved(links[2], Kind.RDS, Level(sent="v2", acked="v1", nacked="v2", words="bad"))
    assert counted() == {"synced": 1, "waiting": 1, "nacked": 1}
    parts.fleet.disconnected(links[2])
    parts.fleet.moved(links[1], Kind.RDS, Level(sent="v2", acked="v2"))
    assert counted() == {"synced": 2, "waiting": 0, "nacked": 0}
