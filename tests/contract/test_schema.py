"""The migrations make what the code declares, and the database itself guards what must never change."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from controlplane.errors import ConflictError
from controlplane.ports import NewRollout
from controlplane.store import SqlStore, tables
from controlplane.store.engine import Tx
from controlplane.store.schema import migrations_folder
from tests.builders import NOW, make_new_rollout, make_spec


async def run(store: SqlStore, statement: str) -> None:
    """Run a statement that the product never runs."""

    def work(tx: Tx) -> None:
        tx.conn.execute(sa.text(statement))

    await store.database.write(work)


async def test_models_equal_the_migrated_schema(store: SqlStore) -> None:
    def differences(tx: Tx) -> list[object]:
        context = MigrationContext.configure(tx.conn, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, tables.metadata))

    assert await store.database.read(differences) == []


async def test_checks_and_partial_indexes_equal_the_models(store: SqlStore) -> None:
    """Alembic does not compare these."""

    def found(tx: Tx) -> tuple[set[str], set[str]]:
        inspector = sa.inspect(tx.conn)
        names = [name for name in inspector.get_table_names() if name != "alembic_version"]
        checks = {str(check["name"]) for name in names for check in inspector.get_check_constraints(name)}
        partial = {
            str(index["name"])
            for name in names
            for index in inspector.get_indexes(name)
            if any(option.endswith("_where") for option in index.get("dialect_options", {}))
        }
        return checks, partial

    declared = {
        str(constraint.name)
        for table in tables.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, sa.CheckConstraint)
    }
    checks, partial = await store.database.read(found)
    assert checks == declared
    assert partial == {
        "uq_rollout_active",
        "ix_command_pending",
        "ix_waiting_start_open",
        "uq_api_key_live",
        "ix_job_unswept",
        "ix_job_expires_at",
        "uq_job_drain_live",
        "ix_job_owner_open",
        "ix_job_owner_stored",
        "ix_job_notice_due_at",
        "ix_history_told",
        "ix_audit_event_denied",
    }


def test_there_is_one_head() -> None:
    parents = [
        line.partition("=")[2].strip()
        for script in (migrations_folder() / "versions").glob("*.py")
        for line in script.read_text().splitlines()
        if line.startswith("down_revision")
    ]
    assert parents.count("None") == 1
    assert len(parents) == len(set(parents))


# -- triggers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def full_store(store: SqlStore) -> SqlStore:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.start(make_new_rollout(), key=None, now=NOW)
    return store


@pytest.mark.parametrize("table", ["history", *(table.name for table in tables.REVISION_PARTS)])
async def test_what_was_written_once_stays(full_store: SqlStore, table: str) -> None:
    for change in ("UPDATE {} SET service = service", "DELETE FROM {}"):
        with pytest.raises(ConflictError, match=f"{table} is append-only"):
            await run(full_store, change.format(table))


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM service_revision",
        "UPDATE service_revision SET listener_port = 1",
        "UPDATE service_revision SET grpc_target = 'elsewhere'",
        "UPDATE service_revision SET listener_certificate = 'other'",
        "UPDATE service_revision SET mirror_to = 'v1'",
        "UPDATE service_revision SET mirror_share_bp = 1",
        "UPDATE service_revision SET number = 2, status = 'good'",
    ],
)
async def test_of_a_revision_only_the_verdict_changes(full_store: SqlStore, change: str) -> None:
    with pytest.raises(ConflictError, match="service_revision is append-only"):
        await run(full_store, change)
    await run(full_store, "UPDATE service_revision SET status = 'good', words = 'x'")


@pytest.mark.integration
async def test_history_cannot_be_truncated(postgres_store: SqlStore) -> None:
    with pytest.raises(ConflictError, match="history is append-only"):
        await run(postgres_store, "TRUNCATE history")


SECOND_ROLLOUT = """
    INSERT INTO rollout SELECT 'colorize-2', service, 2, baseline, candidate, plan, slos, state_kind, state, version,
    started_at, deadline_at, ended_at, "by", why, judge, evidence, judged_tick, asked FROM rollout
"""


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rollout SET state_kind = 'dancing'",
        "UPDATE rollout SET state_kind = 'promoted'",
        "UPDATE rollout SET candidate = 'v1'",
        "UPDATE split_share SET weight_bp = 10001",
        "INSERT INTO split_share VALUES ('nobody', 0, 'v1', 10000)",
        SECOND_ROLLOUT,
        "INSERT INTO slo (service, revision, position, name, kind) VALUES ('colorize', 1, 9, 'pictures', 'quality')",
    ],
)
async def test_the_database_refuses_nonsense_itself(full_store: SqlStore, change: str) -> None:
    with pytest.raises(ConflictError):
        await run(full_store, change)


async def test_a_failed_transaction_leaves_nothing(full_store: SqlStore) -> None:
    wrong: NewRollout = make_new_rollout()

    def half(tx: Tx) -> None:
        tx.conn.execute(sa.text("UPDATE rollout SET why = 'half'"))
        raise LookupError(wrong.service)

    with pytest.raises(LookupError):
        await full_store.database.write(half)
    assert [rollout.why for rollout in await full_store.load_active()] == [wrong.why]
