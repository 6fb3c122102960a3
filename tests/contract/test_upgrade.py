"""What an earlier release wrote is still there after an upgrade, and still guarded."""

import contextlib
import pathlib
from collections.abc import Iterator

import alembic.command
import pytest
import sqlalchemy as sa

from controlplane.clock import SystemClock
from controlplane.ports import SnapshotStatus
from controlplane.rollout.answers import HTTP_BAD_KINDS
from controlplane.rollout.windows import VersionTick
from controlplane.store import open_store
from controlplane.store.codec import histogram_to_bytes
from controlplane.store.schema import _config, _engine, upgrade
from controlplane.store.urls import parse_url
from controlplane.wake import WakeBoard
from tests.pg import Postgres

ROWS = """
INSERT INTO service (name, created_at) VALUES ('colorize', '2026-11-01 00:00:00+00:00');
INSERT INTO service_revision (
    service, number, status, words, by, why, at, listener_name, listener_address, listener_port, listener_stat_prefix,
    virtual_host, route_config, domains, plan_deadline_us, plan_prepare_timeout_us
) VALUES (
    'colorize', 1, 'good', '', 'ada', '', '2026-11-01 00:00:00+00:00', 'l', '127.0.0.1', 8080, 's',
    'h', 'r', '["*"]', 7200000000, 300000000
);
INSERT INTO node_status (node, cluster, replica, variant, connected_at, types) VALUES (
    'edge-1', 'edge', 'main', 'delta', '2026-11-01 00:00:00+00:00',
    '{"rds": {"sent": "a", "acked": "a", "acked_at": null, "nacked": "", "words": ""}}'
);
INSERT INTO telemetry_tick (tick, cluster, source, completed, errors, started, active, latency) VALUES (
    1800000000, 'v1', 'old', 5, 2, 5, 0, 'histogram'
);
INSERT INTO telemetry_beat (tick, source, reporting, silent, closed) VALUES (1800000000, 'old', 1, 0, true);
INSERT INTO snapshot (version, serial, versions, revisions, content, status, words, at) VALUES (
    's1', 7, '{"rds": "a"}', '{"colorize": 1}', 'bytes', 'good', '', '2026-11-01 00:00:00+00:00'
)
"""


@contextlib.contextmanager
def first_release(url: str) -> Iterator[str]:
    """Make the database as the first release did, with rows of its own."""
    engine = _engine(parse_url(url))
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
        literal = "X'%s'" if url.startswith("sqlite") else r"'\x%s'"
        rows = ROWS.replace("'bytes'", literal % "00ff")
        rows = rows.replace("'histogram'", literal % histogram_to_bytes(VersionTick.zero().latency).hex())
        for statement in rows.split(";\n"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def old_database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    if request.param == "sqlite":
        with first_release(f"sqlite:///{tmp_path / 'old.sqlite3'}") as url:
            yield url
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database() as empty, first_release(empty) as url:
        yield url


async def test_what_the_first_release_wrote_is_read_by_this_one(old_database: str) -> None:
    await upgrade(old_database)
    store = await open_store(old_database, board=WakeBoard(), clock=SystemClock())
    try:
        snapshot = await store.load_last_good_snapshot("")
        assert snapshot is not None
        assert (snapshot.version, snapshot.status, snapshot.content) == ("s1", SnapshotStatus.GOOD, b"\x00\xff")
        (node,) = await store.load_nodes()
        assert (node.node, node.group, node.user_agent, node.is_envoy) == ("edge-1", "", "", True)
        assert node.types["rds"].nacked_at is None
        (read,) = await store.load_ticks(["v1"], after=0)
        assert read.counts == {"v1": VersionTick(5, 2, 5, 0)}
        assert read.counts["v1"].count(HTTP_BAD_KINDS) == 2

        def broken(column: str) -> str:
            return f"UPDATE service_revision SET {column} = {column}"  # noqa: S608 - our own names

        for column in ("listener_port", "groups", "config_canary_us"):
            with pytest.raises(Exception, match="append-only"):
                await store.database.write(lambda tx, column=column: tx.conn.execute(sa.text(broken(column))))  # type: ignore[misc]
        await store.database.write(lambda tx: tx.conn.execute(sa.text("UPDATE service_revision SET tried_at = NULL")))
    finally:
        await store.close()
