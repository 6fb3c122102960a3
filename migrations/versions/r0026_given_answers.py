"""Add the answers that repeated requests get again, and indexes for pages and for their clearing (expand)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Add the table and the indexes."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "given_answer",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_given_answer"),
    )
    op.create_index("ix_given_answer_at", "given_answer", ["at"])
    op.create_index("ix_idempotency_key_at", "idempotency_key", ["at"])
    op.create_index("ix_history_rollout_number", "history", ["rollout", "number"])
