"""Add callbacks: whom owners want told of the ends of their jobs, and the outbox of notices (expand)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add a column with a default, which the release before need not know, and the tables."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column("job", sa.Column("callback_url", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.create_table(
        "job_callback",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("events", JSON, nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("old_secret", sa.Text(), nullable=True),
        sa.Column("old_until", MOMENT, nullable=True),
        sa.Column("applied_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name="pk_job_callback"),
    )
    op.create_table(
        "job_notice",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("callback", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("facts", JSON, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("made_at", MOMENT, nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("delivered", sa.Boolean(), nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name="fk_job_notice_job"),
        sa.PrimaryKeyConstraint("number", name="pk_job_notice"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_notice_job", "job_notice", ["job"])
    op.create_index("ix_job_notice_owner", "job_notice", ["owner", "callback"])
    pending = sa.text("ended_at IS NULL")
    op.create_index("ix_job_notice_due_at", "job_notice", ["due_at"], sqlite_where=pending, postgresql_where=pending)
