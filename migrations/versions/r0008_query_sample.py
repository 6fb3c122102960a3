"""Add query_sample: what Prometheus told of rollouts (expand; the release before asks it nothing)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the table."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "query_sample",
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tick", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("baseline", sa.Double(), nullable=True),
        sa.Column("baseline_bad", sa.Double(), nullable=True),
        sa.Column("candidate", sa.Double(), nullable=True),
        sa.Column("candidate_bad", sa.Double(), nullable=True),
        sa.Column("words", sa.Text(), nullable=False),
        sa.CheckConstraint("words <> '' OR candidate IS NOT NULL", name=op.f("ck_query_sample_known")),
        sa.ForeignKeyConstraint(["rollout"], ["rollout.id"], name="fk_query_sample_rollout"),
        sa.PrimaryKeyConstraint("rollout", "name", "tick", name="pk_query_sample"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_query_sample_tick", "query_sample", ["tick"])
