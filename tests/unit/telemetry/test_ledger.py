"""The rules of the ledger, one by one; that they hold together is test_exactness.py's."""

import dataclasses

import pytest

from controlplane.ports import TelemetryBatch
from controlplane.telemetry.fleet import Line
from controlplane.telemetry.ledger import Ledger
from controlplane.telemetry.reports import parse
from controlplane.telemetry.tally import MAX_PENDING, Heard
from tests.unit.telemetry.envoys import FakeEnvoy, ManualClock
from tests.unit.telemetry.rows import Rows


class Plane:
    """A control plane's ledger over rows, on a clock by hand; `restart` is a kill."""

    def __init__(self, clock: ManualClock, *, settle_s: float = 0.0, rows: Rows | None = None) -> None:
        self.clock = clock
        self.rows = rows or Rows()
        self.settle_s = settle_s
        self.connected: set[str] = set()
        self.generation = 0
        self.restart()

    def restart(self) -> None:
        self.generation += 1
        self.ledger = Ledger(
            source=f"{id(self)}-{self.generation}",
            at=self.clock.moment(),
            settle_s=self.settle_s,
            connected=lambda: self.connected,
        )

    def open(self, envoy: FakeEnvoy) -> Line:
        return self.ledger.open(envoy.node, at=self.clock.moment())

    def hear(self, line: Line, envoy: FakeEnvoy) -> None:
        self.ledger.take(line, envoy.report(), at=self.clock.moment())

    def close(self, line: Line) -> None:
        self.ledger.close(line, at=self.clock.moment())

    def write(self) -> TelemetryBatch | None:
        if self.ledger.wants_bases(at=self.clock.moment()):
            self.ledger.learn(tuple(self.rows.bases.values()), at=self.clock.moment())
        batch = self.ledger.batch(at=self.clock.moment())
        self.rows.apply(batch)
        self.ledger.confirm()
        return batch

    @property
    def heard(self) -> Heard:
        return self.ledger.heard(at=self.clock.moment())

    @property
    def told(self) -> list[str]:
        return [notice.event for notice in self.ledger.notices]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def plane(clock: ManualClock) -> Plane:
    plane = Plane(clock)
    plane.write()
    return plane


@pytest.fixture
def envoy(clock: ManualClock) -> FakeEnvoy:
    return FakeEnvoy(clock)


# -- counting ----------------------------------------------------------------------------------------------------------


def test_a_fresh_envoy_counts_from_its_first_request(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 10)
    envoy.serve("v1", 2, status=503, ms=450)
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    total = plane.rows.total("v1")
    assert (total.completed, total.errors, total.started) == (12, 2, 12)
    assert total.slow(400) == 2


def test_counts_belong_to_the_second_their_report_arrives_in(plane: Plane, envoy: FakeEnvoy) -> None:
    line = plane.open(envoy)
    first = plane.clock.moment().tick
    for count in (3, 4):
        envoy.serve("v1", count)
        plane.hear(line, envoy)
        plane.clock.advance(1)
    plane.write()
    assert plane.rows.at(first, "v1").completed == 3
    assert plane.rows.at(first + 1, "v1").completed == 4


def test_nothing_is_booked_before_sql_was_read(clock: ManualClock, envoy: FakeEnvoy) -> None:
    plane = Plane(clock)
    envoy.serve("v1", 3)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    envoy.serve("v1", 2)
    plane.hear(line, envoy)
    assert plane.heard == Heard(reporting=0, silent=0)
    plane.write()
    assert plane.rows.total("v1").completed == 5
    assert sum(plane.rows.total("v1").latency) == 5


def test_after_a_restart_the_outage_arrives_as_one_tick(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 5)
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    plane.clock.advance(300)
    envoy.serve("v1", 100)
    envoy.flush()  # into nowhere
    envoy.serve("v1", 7)
    plane.restart()
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert plane.rows.total("v1").completed == 112
    assert plane.rows.at(plane.clock.moment().tick, "v1").completed == 107


def test_history_of_an_envoy_never_seen_is_not_traffic(clock: ManualClock) -> None:
    old = FakeEnvoy(clock, node="old")
    old.serve("v1", 1000)
    clock.advance(3600)
    fresh_database = Plane(clock)
    line = fresh_database.open(old)
    fresh_database.hear(line, old)
    fresh_database.write()
    assert fresh_database.rows.total("v1").completed == 0
    assert sum(fresh_database.rows.total("v1").latency) == 0
    old.serve("v1", 4)
    fresh_database.hear(line, old)
    fresh_database.write()
    assert fresh_database.rows.total("v1").completed == 4
    assert not fresh_database.rows.gaps


def test_an_envoy_that_started_while_nobody_listened_counts_in_full(plane: Plane, envoy: FakeEnvoy) -> None:
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    plane.clock.advance(60)
    newcomer = FakeEnvoy(plane.clock, node="newcomer")
    newcomer.serve("v1", 9)
    plane.clock.advance(60)
    plane.restart()
    plane.hear(plane.open(newcomer), newcomer)
    plane.write()
    assert plane.rows.total("v1").completed == 9


def test_a_restarted_envoy_counts_from_zero(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 5)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    plane.close(line)
    plane.clock.advance(10)
    again = FakeEnvoy(plane.clock)
    again.serve("v1", 8)  # more than before: the counter alone would not tell
    plane.hear(plane.open(again), again)
    plane.write()
    assert plane.rows.total("v1").completed == 13


def test_an_envoy_that_crashed_at_once_counts_from_zero(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 5)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    plane.close(line)
    plane.clock.advance(2)  # within the tolerance of its start
    again = FakeEnvoy(plane.clock)
    again.serve("v1", 3)
    plane.hear(plane.open(again), again)
    plane.write()
    assert plane.rows.total("v1").completed == 8


def test_a_cluster_that_was_removed_and_came_back_counts_from_zero(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v2", 5)
    envoy.begin("v2", 2)
    envoy.members["v2"] = (1, 1)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    envoy.remove_cluster("v2")
    plane.clock.advance(1)
    plane.hear(line, envoy)
    plane.write()
    assert plane.rows.health["envoy-1", "v2"] == (0, 0)
    assert plane.rows.at(plane.clock.moment().tick, "v2").active == 0
    envoy.serve("v2", 9)
    plane.hear(line, envoy)
    plane.write()
    assert plane.rows.total("v2").completed == 14


def test_a_flush_in_parts_forgets_nothing(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 5)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    whole = envoy.flush()
    for family in list(whole.envoy_metrics):
        part = type(whole)(envoy_metrics=[family])
        plane.ledger.take(line, parse(part), at=plane.clock.moment())
    plane.hear(line, envoy)
    plane.write()
    assert plane.rows.total("v1").completed == 5


def test_without_an_uptime_nothing_is_counted_and_it_is_said(plane: Plane, envoy: FakeEnvoy) -> None:
    line = plane.open(envoy)
    for _ in range(7):
        envoy.serve("v1")
        plane.ledger.take(line, parse(envoy.flush(uptime=False)), at=plane.clock.moment())
        plane.clock.advance(1)
    assert plane.told == ["telemetry.envoy_unknown"]
    assert plane.heard == Heard(reporting=0, silent=1)
    plane.write()
    assert plane.rows.total("v1").completed == 0


def test_foreign_buckets_are_told_once(plane: Plane, clock: ManualClock) -> None:
    envoy = FakeEnvoy(clock, edges=(1, 10, 100))
    line = plane.open(envoy)
    for _ in range(3):
        envoy.serve("v1")
        plane.hear(line, envoy)
    assert plane.told == ["telemetry.histograms_refused"]
    assert "regenerate the bootstrap" in plane.ledger.notices[0].fields["fix"]
    plane.write()
    assert plane.rows.total("v1").completed == 3
    assert sum(plane.rows.total("v1").latency) == 0


# -- answers by single status ------------------------------------------------------------------------------------------


def test_answers_are_told_by_their_status_and_counted_once(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 5)
    envoy.serve("v1", 4, status=422)
    envoy.serve("v1", 2, status=429)
    envoy.serve("v1", 3, status=503)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    plane.clock.advance(1)
    envoy.serve("v1", 1, status=422)
    plane.hear(line, envoy)
    plane.write()
    total = plane.rows.total("v1")
    assert (total.completed, total.errors) == (15, 3)
    assert total.codes == (("422", 5), ("429", 2), ("503", 3))
    assert plane.rows.at(plane.clock.moment().tick, "v1").codes == (("422", 1),)
    assert not plane.rows.gaps


def without_codes(plane: Plane) -> None:
    """Make the books those of a release that did not read single statuses."""
    for node, base in plane.rows.bases.items():
        counters = {key: value for key, value in base.counters.items() if "/upstream_rq_" in key}
        plane.rows.bases[node] = dataclasses.replace(base, counters=counters)


def test_the_history_behind_books_without_codes_is_not_traffic(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 1000, status=422, grpc=5)
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    without_codes(plane)
    plane.rows.ticks.clear()
    envoy.serve("v1", 7, status=422, grpc=5)  # while no release runs: counted, but of what status nobody can tell
    plane.restart()
    line = plane.open(envoy)
    plane.hear(line, envoy)
    plane.write()
    total = plane.rows.total("v1")
    assert (total.completed, total.codes) == (7, ())
    envoy.serve("v1", 2, status=422, grpc=5)
    envoy.serve("v2", 1, status=404)
    plane.hear(line, envoy)
    plane.write()
    assert plane.rows.total("v1").codes == (("422", 2), ("grpc-5", 2))
    assert plane.rows.total("v2").codes == (("404", 1),)


def test_statuses_that_are_new_to_books_with_codes_count_in_full(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 10)
    envoy.serve("v1", 10, status=404)
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    envoy.serve("v1", 4, status=422)
    envoy.serve("v1", 3, grpc=14)
    plane.restart()
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert plane.rows.total("v1").codes == (("404", 10), ("422", 4), ("grpc-14", 3))


def test_an_envoy_of_before_an_upgrade_that_never_answered_counts_in_full(plane: Plane, envoy: FakeEnvoy) -> None:
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    without_codes(plane)
    envoy.serve("v1", 4, status=422)
    plane.restart()
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert plane.rows.total("v1").codes == (("422", 4),)


def test_a_status_in_trailers_waits_for_a_tick_with_calls(plane: Plane, envoy: FakeEnvoy) -> None:
    """Or a tick would have more bad calls than calls."""
    line = plane.open(envoy)
    envoy.serve("v1", 3)  # the headers of three streams
    plane.hear(line, envoy)
    plane.clock.advance(5)
    envoy.say_status("v1", 13, 3)
    plane.hear(line, envoy)
    plane.write()
    assert plane.rows.total("v1").codes == ()
    plane.restart()  # what waits is not lost
    line = plane.open(envoy)
    for _ in range(4):
        plane.clock.advance(1)
        envoy.serve("v1", 2, grpc=0)
        plane.hear(line, envoy)
        plane.write()
    assert plane.rows.total("v1").codes == (("grpc-13", 3),)
    for (_, _, cluster), row in plane.rows.ticks.items():
        assert cluster == "v1"
        assert sum(count for _, count in row.codes) <= row.completed


def test_statuses_of_a_cluster_that_came_back_count_from_zero(plane: Plane, envoy: FakeEnvoy) -> None:
    line = plane.open(envoy)
    envoy.serve("v1", 5, status=422, grpc=5)
    plane.hear(line, envoy)
    envoy.remove_cluster("v1")
    plane.hear(line, envoy)
    envoy.serve("v1", 6, status=422, grpc=5)
    plane.hear(line, envoy)
    plane.write()
    assert plane.rows.total("v1").codes == (("422", 11), ("grpc-5", 11))


# -- gaps --------------------------------------------------------------------------------------------------------------


def test_latencies_lost_in_an_outage_are_a_gap(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 5)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    plane.write()
    since = plane.clock.now()
    plane.clock.advance(3)
    envoy.serve("v1", 4)
    envoy.flush()
    plane.restart()
    plane.clock.advance(1)
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert [(gap.node, gap.since, gap.until) for gap in plane.rows.gaps] == [("envoy-1", since, plane.clock.now())]


def test_an_outage_without_requests_is_no_gap(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 5)
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    plane.clock.advance(3)
    envoy.flush()
    plane.restart()
    envoy.serve("v1", 2)  # in the interval that is reported
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert plane.rows.gaps == []
    assert sum(plane.rows.total("v1").latency) == 7


def test_what_a_new_envoy_answered_before_its_first_report_is_a_gap_too(plane: Plane, envoy: FakeEnvoy) -> None:
    began = plane.clock.now()
    envoy.serve("v1", 5)
    envoy.flush()
    plane.clock.advance(2)
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert [(gap.since, gap.until) for gap in plane.rows.gaps] == [(began, plane.clock.now())]


# -- in flight, health, silence ----------------------------------------------------------------------------------------


def test_in_flight_shows_in_every_tick_until_its_envoy_leaves(plane: Plane, clock: ManualClock) -> None:
    one, two = FakeEnvoy(clock), FakeEnvoy(clock, node="envoy-2")
    lines = [plane.open(one), plane.open(two)]
    one.begin("v2", 3)
    two.begin("v2", 2)
    for line, envoy in zip(lines, (one, two), strict=True):
        plane.hear(line, envoy)
    start = clock.moment().tick
    clock.advance(3)
    plane.write()
    assert [plane.rows.at(start + n, "v2").active for n in range(3)] == [5, 5, 5]
    plane.close(lines[1])
    plane.write()
    assert plane.rows.at(clock.moment().tick, "v2").active == 3


def test_health_is_written_when_it_changes_and_now_and_then(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.members["v1"] = (1, 2)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    batch = plane.write()
    assert batch is not None
    assert [(row.node, row.cluster, row.healthy, row.total) for row in batch.health] == [("envoy-1", "v1", 1, 2)]
    plane.hear(line, envoy)
    plane.clock.advance(1)
    batch = plane.write()
    assert batch is not None
    assert batch.health == ()
    plane.clock.advance(30)
    plane.hear(line, envoy)
    batch = plane.write()
    assert batch is not None
    assert len(batch.health) == 1


def test_a_beat_every_second_even_without_an_envoy(plane: Plane) -> None:
    start = plane.clock.moment().tick
    for _ in range(3):
        plane.clock.advance(1)
        plane.write()
    beats = [plane.rows.beats[plane.ledger._source, start + n] for n in range(4)]
    assert [beat.closed for beat in beats] == [True, True, True, False]
    assert {(beat.reporting, beat.silent) for beat in beats} == {(0, 0)}


def test_seconds_that_the_loop_missed_get_their_beats(plane: Plane) -> None:
    start = plane.clock.moment().tick
    plane.clock.advance(30)
    plane.write()
    assert all(plane.rows.beats[plane.ledger._source, start + n].closed for n in range(30))


def test_a_suspended_machine_vouches_for_nothing(plane: Plane) -> None:
    start = plane.clock.moment().tick
    plane.clock.advance(7200)
    plane.write()
    assert sorted(tick for _, tick in plane.rows.beats) == [start, start + 7200]


def test_a_stream_without_reports_is_silent_after_five_seconds(plane: Plane, envoy: FakeEnvoy) -> None:
    plane.hear(plane.open(envoy), envoy)
    assert plane.heard == Heard(reporting=1, silent=0)
    plane.clock.advance(5.5)
    assert plane.heard == Heard(reporting=0, silent=1)
    plane.clock.advance(300)
    assert plane.heard == Heard(reporting=0, silent=1)


def test_an_envoy_that_left_is_silent_for_ten_seconds_and_then_forgotten(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.members["v1"] = (1, 1)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    plane.close(line)
    plane.write()
    seen = []
    for _ in range(13):
        plane.clock.advance(1)
        plane.write()
        seen.append((plane.heard.reporting, plane.heard.silent))
    assert seen == [(1, 0)] * 5 + [(0, 1)] * 5 + [(0, 0)] * 3
    assert plane.ledger.take_gone() == ("envoy-1",)
    assert plane.ledger.take_gone() == ()


def test_an_envoy_whose_xds_stream_lives_stays_silent(plane: Plane, envoy: FakeEnvoy) -> None:
    plane.connected.add("envoy-1")
    line = plane.open(envoy)
    plane.hear(line, envoy)
    plane.close(line)
    plane.clock.advance(60)
    assert plane.heard == Heard(reporting=0, silent=1)


def test_an_envoy_with_xds_but_without_telemetry_is_silent(plane: Plane) -> None:
    plane.connected.add("mute")
    plane.clock.advance(1)
    plane.write()
    assert plane.heard == Heard(reporting=0, silent=0)
    for _ in range(6):
        plane.clock.advance(1)
        plane.write()
    assert plane.heard == Heard(reporting=0, silent=1)


def test_a_forgotten_envoy_that_returns_is_not_counted_again(plane: Plane, envoy: FakeEnvoy) -> None:
    envoy.serve("v1", 5)
    line = plane.open(envoy)
    plane.hear(line, envoy)
    plane.write()
    plane.close(line)
    for _ in range(30):
        plane.clock.advance(1)
        plane.write()
    envoy.serve("v1", 2)
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert plane.rows.total("v1").completed == 7


# -- two with one id ---------------------------------------------------------------------------------------------------


def test_two_envoys_with_one_id_and_two_starts_are_counted_apart_and_told(plane: Plane, envoy: FakeEnvoy) -> None:
    plane.clock.advance(60)
    other = FakeEnvoy(plane.clock)
    lines = [plane.open(envoy), plane.open(other)]
    for _ in range(4):
        for line, process, count in zip(lines, (envoy, other), (3, 5), strict=True):
            process.serve("v1", count)
            plane.hear(line, process)
        plane.clock.advance(0.25)
    plane.write()
    assert plane.rows.total("v1").completed == 4 * 8
    assert "telemetry.node_id_shared" in plane.told
    assert plane.heard == Heard(reporting=2, silent=0)


def test_a_quick_reconnect_is_not_taken_for_two(plane: Plane, envoy: FakeEnvoy) -> None:
    plane.hear(plane.open(envoy), envoy)
    plane.clock.advance(60)
    again = FakeEnvoy(plane.clock)  # restarted; the old stream is half open
    line = plane.open(again)
    for _ in range(10):
        plane.hear(line, again)
        plane.clock.advance(0.25)
    assert plane.told == []


def test_a_twin_with_the_same_start_is_refused_and_holds(plane: Plane, envoy: FakeEnvoy) -> None:
    twin = FakeEnvoy(plane.clock)
    lines = [plane.open(envoy), plane.open(twin)]
    for _ in range(40):
        for line, process, count in zip(lines, (envoy, twin), (3, 50), strict=True):
            process.serve("v1", count)
            plane.hear(line, process)
        plane.clock.advance(0.25)
    plane.write()
    assert plane.rows.total("v1").completed == 40 * 3
    assert plane.told == ["telemetry.twin_refused"]
    assert plane.heard == Heard(reporting=1, silent=1)


def test_an_envoy_that_reconnects_beside_its_half_open_stream_loses_nothing(plane: Plane, envoy: FakeEnvoy) -> None:
    old = plane.open(envoy)
    envoy.serve("v1", 3)
    plane.hear(old, envoy)
    new = plane.open(envoy)
    for _ in range(20):
        plane.clock.advance(0.25)
        envoy.serve("v1")
        plane.hear(new, envoy)
    plane.close(old)
    plane.write()
    total = plane.rows.total("v1")
    assert (total.completed, sum(total.latency)) == (23, 23)
    assert plane.told == []
    assert plane.heard == Heard(reporting=1, silent=0)


def test_streams_that_died_unnoticed_do_not_keep_an_envoy_waiting(plane: Plane, envoy: FakeEnvoy) -> None:
    for _ in range(3):
        plane.hear(plane.open(envoy), envoy)
    line = plane.open(envoy)
    envoy.serve("v1")
    for _ in range(16):
        plane.clock.advance(0.25)
        plane.hear(line, envoy)
    plane.write()
    assert plane.rows.total("v1").completed == 1


# -- writing -----------------------------------------------------------------------------------------------------------


def test_an_unconfirmed_batch_is_offered_again_as_it_was(plane: Plane, envoy: FakeEnvoy) -> None:
    line = plane.open(envoy)
    envoy.serve("v1", 3)
    plane.hear(line, envoy)
    first = plane.ledger.batch(at=plane.clock.moment())
    envoy.serve("v1", 4)
    plane.hear(line, envoy)
    plane.clock.advance(2)
    assert plane.ledger.batch(at=plane.clock.moment()) is first
    plane.rows.apply(first)
    plane.ledger.confirm()
    plane.write()
    assert plane.rows.total("v1").completed == 7


def test_a_long_outage_of_the_database_keeps_the_sum_in_bounded_memory(plane: Plane, envoy: FakeEnvoy) -> None:
    line = plane.open(envoy)
    envoy.serve("v1")
    plane.hear(line, envoy)
    stuck = plane.ledger.batch(at=plane.clock.moment())
    for _ in range(MAX_PENDING + 500):
        plane.clock.advance(1)
        envoy.serve("v1")
        plane.hear(line, envoy)
    assert plane.ledger.batch(at=plane.clock.moment()) is stuck
    assert len(plane.ledger._tally._rows) <= MAX_PENDING
    plane.rows.apply(stuck)
    plane.ledger.confirm()
    plane.write()
    assert plane.rows.total("v1").completed == MAX_PENDING + 501
    assert sum(plane.rows.total("v1").latency) == MAX_PENDING + 501


def test_an_envoy_that_leaves_while_sql_is_away_is_remembered_until_it_is_written(
    plane: Plane, envoy: FakeEnvoy
) -> None:
    line = plane.open(envoy)
    plane.hear(line, envoy)
    stuck = plane.ledger.batch(at=plane.clock.moment())
    envoy.serve("v1", 5)
    plane.hear(line, envoy)
    plane.close(line)
    for _ in range(60):
        plane.clock.advance(1)
        plane.ledger.roll(plane.clock.moment())
    assert plane.ledger.batch(at=plane.clock.moment()) is stuck
    plane.rows.apply(stuck)
    plane.ledger.confirm()
    plane.write()
    plane.restart()
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert plane.rows.total("v1").completed == 5


def test_nothing_new_is_nothing_to_write(plane: Plane, envoy: FakeEnvoy) -> None:
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert plane.ledger.batch(at=plane.clock.moment()) is None


def test_a_clock_that_is_set_back_stops_the_ticks_and_loses_nothing(plane: Plane, envoy: FakeEnvoy) -> None:
    line = plane.open(envoy)
    plane.clock.advance(10)
    plane.write()
    newest = max(tick for _, tick in plane.rows.beats)
    plane.clock.set_back(5)
    envoy.serve("v1", 3)
    plane.hear(line, envoy)
    plane.write()
    assert max(tick for _, tick in plane.rows.beats) == newest
    assert plane.rows.at(newest, "v1").completed == 3
    plane.clock.advance(6)
    plane.write()
    assert plane.rows.beats[plane.ledger._source, newest].closed


def test_the_end_closes_the_tick_and_books_no_more(plane: Plane, envoy: FakeEnvoy) -> None:
    line = plane.open(envoy)
    envoy.serve("v1", 3)
    plane.hear(line, envoy)
    plane.write()
    plane.ledger.finish(at=plane.clock.moment())
    envoy.serve("v1", 2)
    plane.hear(line, envoy)
    plane.close(line)
    plane.write()
    beat = plane.rows.beats[plane.ledger._source, plane.clock.moment().tick]
    assert beat.closed
    assert plane.rows.total("v1").completed == 3
    plane.restart()
    plane.hear(plane.open(envoy), envoy)
    plane.write()
    assert plane.rows.total("v1").completed == 5


# -- several replicas --------------------------------------------------------------------------------------------------


def test_an_envoy_handed_from_one_replica_to_another_is_counted_once(clock: ManualClock, envoy: FakeEnvoy) -> None:
    rows = Rows()
    one, two = Plane(clock, settle_s=1.0, rows=rows), Plane(clock, settle_s=1.0, rows=rows)
    line, plane, other = None, one, two
    for _ in range(3):
        line = plane.open(envoy)
        for _ in range(8):
            envoy.serve("v1", 5)
            plane.hear(line, envoy)
            clock.advance(0.25)
            plane.write()
        envoy.serve("v1", 7)
        plane.hear(line, envoy)  # the last flush that this replica gets, not written yet
        plane.close(line)
        late, plane, other = plane, other, plane
        line = plane.open(envoy)
        envoy.serve("v1", 1)
        plane.hear(line, envoy)
        plane.write()
        late.write()
        clock.advance(1.5)
        plane.hear(line, envoy)
        plane.write()
        plane.close(line)
    served = envoy.counters["v1", "upstream_rq_2xx"]
    assert rows.total("v1").completed == served
