"""Add notifications: targets, what they are told of the history, and links that decide at gates (expand)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "notify_target",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("kinds", JSON, nullable=False),
        sa.Column("links", sa.Boolean(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("old_secret", sa.Text(), nullable=True),
        sa.Column("old_until", MOMENT, nullable=True),
        sa.Column("after", sa.BigInteger(), nullable=False),
        sa.Column("applied_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("service", "name", name="pk_notify_target"),
    )
    op.create_table(
        "notify_place",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("history", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notify_place"),
    )
    _add_deliveries()
    op.create_table(
        "notify_link",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("digest", name="pk_notify_link"),
    )
    op.create_index("ix_notify_link_rollout", "notify_link", ["rollout"])
    op.create_index("ix_notify_link_expires_at", "notify_link", ["expires_at"])


def _add_deliveries() -> None:
    op.create_table(
        "notify_delivery",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("telling", JSON, nullable=False),
        sa.Column("made_at", MOMENT, nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("delivered", sa.Boolean(), nullable=False),
        sa.Column("message", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["service", "target"],
            ["notify_target.service", "notify_target.name"],
            name="fk_notify_delivery_service_target",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name="pk_notify_delivery"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notify_delivery_target", "notify_delivery", ["service", "target", "number"])
    op.create_index("ix_notify_delivery_ended_at", "notify_delivery", ["ended_at"])
    pending = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_notify_delivery_pending",
        "notify_delivery",
        ["lane", "number"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
