"""The tables of messages: targets, the place up to which the history is sorted, deliveries, links."""

import sqlalchemy as sa

from controlplane.store.columns import Json, Serial, UtcDateTime
from controlplane.store.tables import metadata

notify_target = sa.Table(
    "notify_target",
    metadata,
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("kinds", Json, nullable=False),
    sa.Column("links", sa.Boolean, nullable=False),
    sa.Column("secret", sa.Text),
    sa.Column("old_secret", sa.Text),
    sa.Column("old_until", UtcDateTime),
    sa.Column("after", sa.BigInteger, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
)
"""*service* may be ``*``. *after* is the last entry of the history that it is not told."""

notify_place = sa.Table(
    "notify_place",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("history", sa.BigInteger, nullable=False),
)
"""One row: the last entry of the history that was sorted."""

notify_delivery = sa.Table(
    "notify_delivery",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("telling", Json, nullable=False),
    sa.Column("made_at", UtcDateTime, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("delivered", sa.Boolean, nullable=False),
    sa.Column("message", sa.BigInteger),
    sa.Column("ended_at", UtcDateTime),
    sa.ForeignKeyConstraint(["service", "target"], ["notify_target.service", "notify_target.name"], ondelete="CASCADE"),
    sa.Index("ix_notify_delivery_target", "service", "target", "number"),
    sa.Index("ix_notify_delivery_ended_at", "ended_at"),
    sa.Index(
        "ix_notify_delivery_pending",
        "lane",
        "number",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)
"""A row per target and entry. *lane*: the rollout, or the service, whose rows a target is told in order. *message* is
the number of the row that it was told with."""

notify_link = sa.Table(
    "notify_link",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("rollout", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("used_at", UtcDateTime),
    sa.Index("ix_notify_link_rollout", "rollout"),
    sa.Index("ix_notify_link_expires_at", "expires_at"),
)

gate_answer = sa.Table(
    "gate_answer",
    metadata,
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("before", sa.Text, nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("began_at", UtcDateTime, nullable=False),
    sa.Column("asked_at", UtcDateTime, nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
)
