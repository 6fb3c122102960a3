"""The tables of starts that wait and of freeze windows."""

import sqlalchemy as sa

from controlplane.store.columns import Json, Serial, UtcDateTime
from controlplane.store.tables import metadata

waiting_start = sa.Table(
    "waiting_start",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("service", sa.Text, sa.ForeignKey("service.name"), nullable=False),
    sa.Column("rollout_number", sa.Integer, nullable=False),
    sa.Column("candidate", sa.Text, nullable=False),
    sa.Column("baseline", sa.Text, nullable=False),
    sa.Column("plan", Json),
    sa.Column("supersede", sa.Boolean, nullable=False),
    sa.Column("only_after_success", sa.Boolean, nullable=False),
    sa.Column("again", sa.Boolean, nullable=False),
    sa.Column("after", sa.Text, nullable=False),
    sa.Column("not_before", UtcDateTime),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("key", sa.Text, unique=True),
    sa.Column("ended", sa.Text),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("words", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.CheckConstraint("(ended IS NULL) = (ended_at IS NULL)", name="ended"),
    sqlite_autoincrement=True,
)
"""*id* is that of the rollout to come, whose number is kept free for it. *plan* is NULL for the service's own."""

sa.Index(
    "ix_waiting_start_open",
    waiting_start.c.service,
    waiting_start.c.number,
    sqlite_where=sa.text("ended_at IS NULL"),
    postgresql_where=sa.text("ended_at IS NULL"),
)

freeze_window = sa.Table(
    "freeze_window",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("ended_by", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("ended_why", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Index("ix_freeze_window_until", "until"),
    sqlite_autoincrement=True,
)
"""*service* is "" where everything is frozen."""
