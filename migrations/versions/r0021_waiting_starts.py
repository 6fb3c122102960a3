"""Add starts that wait, freeze windows, and the command undo, an abort to the release before (expand)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0017"

MOMENT = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the column and the tables."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column("command", sa.Column("undo", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "waiting_start",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("rollout_number", sa.Integer(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("baseline", sa.Text(), nullable=False),
        sa.Column("plan", JSON, nullable=True),
        sa.Column("supersede", sa.Boolean(), nullable=False),
        sa.Column("only_after_success", sa.Boolean(), nullable=False),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("not_before", MOMENT, nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("words", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.CheckConstraint("(ended IS NULL) = (ended_at IS NULL)", name=op.f("ck_waiting_start_ended")),
        sa.ForeignKeyConstraint(["service"], ["service.name"], name="fk_waiting_start_service"),
        sa.PrimaryKeyConstraint("number", name="pk_waiting_start"),
        sa.UniqueConstraint("id", name="uq_waiting_start_id"),
        sa.UniqueConstraint("key", name="uq_waiting_start_key"),
        sqlite_autoincrement=True,
    )
    live = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_waiting_start_open", "waiting_start", ["service", "number"], sqlite_where=live, postgresql_where=live
    )
    op.create_table(
        "freeze_window",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("until", MOMENT, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("ended_why", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("number", name="pk_freeze_window"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_freeze_window_until", "freeze_window", ["until"])
