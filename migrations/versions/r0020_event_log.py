"""Add Envoys' answers, weights in the history, odds of judged ticks and sums of telemetry (expand)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the columns and the tables."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column("history", sa.Column("weights", JSON, nullable=True))
    op.add_column("judged_tick", sa.Column("odds", JSON, nullable=False, server_default="{}"))
    op.create_table(
        "envoy_answer",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("acked", sa.Boolean(), nullable=False),
        sa.Column("nodes", JSON, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_envoy_answer"),
    )
    op.create_index("ix_envoy_answer_at", "envoy_answer", ["at"])
    op.create_table(
        "telemetry_rollup",
        sa.Column("span_s", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("begin", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("started", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.BigInteger(), nullable=False),
        sa.Column("latency", sa.LargeBinary(), nullable=False),
        sa.Column("codes", JSON, nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("span_s", "begin", "cluster", name="pk_telemetry_rollup"),
        sqlite_with_rowid=False,
    )
