"""Node groups, configuration canaries, and who a node is.

The release before this one goes on working: what it writes belongs to the group of everyone, which is all it knows.
"""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

FROZEN_COLUMNS = (
    "service, number, by, why, at, listener_name, listener_address, listener_port, listener_stat_prefix,"
    " virtual_host, route_config, domains, plan_deadline_us, plan_prepare_timeout_us, groups, config_canary_us"
)
"""Of a revision: only what the fleet made of it (status, words, tried_at) may change."""


def upgrade() -> None:
    """Add the columns; a snapshot's key becomes its group and version."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    if not sqlite:
        op.execute("SET LOCAL lock_timeout = '4s'")
    for column in (
        sa.Column("groups", JSON, nullable=False, server_default="[]"),
        sa.Column("config_canary_us", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("service_revision", column)
    for column in (
        sa.Column("node_group", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("user_agent", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("is_envoy", sa.Boolean(), nullable=False, server_default=sa.true()),
    ):
        op.add_column("node_status", column)
    if sqlite:
        rebuild_snapshot()
        freeze_on_sqlite()
    else:
        op.add_column("snapshot", sa.Column("node_group", sa.Text(), nullable=False, server_default=sa.text("''")))
        op.drop_constraint("pk_snapshot", "snapshot")
        op.create_primary_key("pk_snapshot", "snapshot", ["node_group", "version"])
        freeze_on_postgresql()


def rebuild_snapshot() -> None:
    """SQLite cannot change a primary key in place."""
    op.rename_table("snapshot", "snapshot_before")
    op.create_table(
        "snapshot",
        sa.Column("node_group", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("versions", JSON, nullable=False),
        sa.Column("revisions", JSON, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('proposed', 'good', 'rejected')", name=op.f("ck_snapshot_status")),
        sa.PrimaryKeyConstraint("node_group", "version", name="pk_snapshot"),
        sa.UniqueConstraint("serial", name="uq_snapshot_serial"),
    )
    columns = "version, serial, versions, revisions, content, status, words, at"
    op.execute(f"INSERT INTO snapshot (node_group, {columns}) SELECT '', {columns} FROM snapshot_before")  # noqa: S608 - our own names
    op.drop_table("snapshot_before")


def freeze_on_sqlite() -> None:
    """Let the guard know of the new columns."""
    op.execute("DROP TRIGGER service_revision_no_update")
    op.execute(
        f"CREATE TRIGGER service_revision_no_update BEFORE UPDATE OF {FROZEN_COLUMNS} ON service_revision"
        " BEGIN SELECT RAISE(ABORT, 'service_revision is append-only'); END"
    )


def freeze_on_postgresql() -> None:
    """Let the guard know of the new columns."""
    op.execute("DROP TRIGGER service_revision_no_update ON service_revision")
    op.execute(
        f"CREATE TRIGGER service_revision_no_update BEFORE UPDATE OF {FROZEN_COLUMNS} ON service_revision"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
