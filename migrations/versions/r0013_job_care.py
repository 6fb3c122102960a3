"""Add what jobs need beyond being coloured: attempts by version, owners' agreements, times to live (expand)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add columns with defaults, which the release before need not know, and the tables."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column("service_revision", sa.Column("draw_header", sa.Text(), nullable=False, server_default=sa.text("''")))
    for column in (
        sa.Column("service", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("keep_us", sa.BigInteger(), nullable=False, server_default="604800000000"),
        sa.Column("strip_metadata", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("label", sa.Boolean(), nullable=False, server_default=sa.true()),
    ):
        op.add_column("job_kind", column)
    for column in (
        sa.Column("first_started_at", MOMENT, nullable=True),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("stable_only", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("job", column)
    live = sa.text("expires_at IS NOT NULL AND deleted_at IS NULL")
    op.create_index("ix_job_expires_at", "job", ["expires_at"], sqlite_where=live, postgresql_where=live)
    op.create_index("ix_job_finished_at", "job", ["finished_at"])
    _create_tables()


def _create_tables() -> None:
    op.create_table(
        "job_attempt",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('done', 'failed', 'refused', 'away', 'lost', 'thrown')", name=op.f("ck_job_attempt_outcome")
        ),
        sa.PrimaryKeyConstraint("job", "attempt", name="pk_job_attempt"),
    )
    op.create_index("ix_job_attempt_ended_at", "job_attempt", ["ended_at"])
    op.create_index("ix_job_attempt_service", "job_attempt", ["service", "version", "ended_at"])
    op.create_table(
        "job_owner",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("keep_us", sa.BigInteger(), nullable=True),
        sa.Column("max_waiting", sa.Integer(), nullable=True),
        sa.Column("max_daily", sa.Integer(), nullable=True),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("vip", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("applied_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_job_owner"),
    )
    op.create_table(
        "job_reroute",
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("rollout", name="pk_job_reroute"),
    )
