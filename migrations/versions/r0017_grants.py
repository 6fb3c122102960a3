"""Add the grants of API keys, and what the audit tells beside services' histories (expand)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the column, which is null for keys that may do everything, the table and the indexes."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column("api_key", sa.Column("grants", sa.JSON().with_variant(postgresql.JSONB(), "postgresql")))
    told = sa.text("kind IN ('audit', 'refused')")
    op.create_index("ix_history_told", "history", ["at", "number"], sqlite_where=told, postgresql_where=told)
    op.create_table(
        "audit_event",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("last_at", MOMENT, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_audit_event"),
        sa.UniqueConstraint("bucket", name="uq_audit_event_bucket"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_event_at_number", "audit_event", ["at", "number"])
    denied = sa.text("bucket IS NOT NULL")
    op.create_index("ix_audit_event_denied", "audit_event", ["at"], sqlite_where=denied, postgresql_where=denied)
