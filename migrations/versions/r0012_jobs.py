"""Add jobs, their kinds, outbox and queue (expand; the release before knows nothing of them)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "job_kind",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("models", JSON, nullable=False),
        sa.Column("min_px", sa.Integer(), nullable=False),
        sa.Column("max_px", sa.Integer(), nullable=False),
        sa.Column("default_px", sa.Integer(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("headers", JSON, nullable=False),
        sa.Column("timeout_us", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("min_px <= default_px AND default_px <= max_px", name=op.f("ck_job_kind_sizes")),
        sa.PrimaryKeyConstraint("name", name="pk_job_kind"),
        sa.UniqueConstraint("workflow", name="uq_job_kind_workflow"),
    )
    _create_job()
    op.create_table(
        "job_outbox",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("vip", sa.Boolean(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name="fk_job_outbox_job"),
        sa.PrimaryKeyConstraint("number", name="pk_job_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_outbox_due_at", "job_outbox", ["due_at"])
    op.create_index("ix_job_outbox_job", "job_outbox", ["job"])
    op.create_table(
        "job_message",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("vip", sa.Boolean(), nullable=False),
        sa.Column("taken_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.Column("dead_words", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_job_message"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_message_queue", "job_message", ["queue", "vip", "number"])


def _create_job() -> None:
    op.create_table(
        "job",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("vip", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("image_url", sa.Text(), nullable=False),
        sa.Column("photo_key", sa.Text(), nullable=False),
        sa.Column("photo_type", sa.Text(), nullable=False),
        sa.Column("photo_bytes", sa.BigInteger(), nullable=False),
        sa.Column("photo_sha256", sa.Text(), nullable=False),
        sa.Column("result_key", sa.Text(), nullable=True),
        sa.Column("result_type", sa.Text(), nullable=True),
        sa.Column("result_bytes", sa.BigInteger(), nullable=True),
        sa.Column("result_sha256", sa.Text(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("swept_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'running', 'done', 'dead', 'cancelled')", name=op.f("ck_job_state")),
        sa.CheckConstraint("(state = 'done') = (result_key IS NOT NULL)", name=op.f("ck_job_result")),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_job_lease")),
        sa.CheckConstraint(
            "(state IN ('done', 'dead', 'cancelled')) = (finished_at IS NOT NULL)", name=op.f("ck_job_finished")
        ),
        sa.ForeignKeyConstraint(["kind"], ["job_kind.name"], name="fk_job_kind"),
        sa.PrimaryKeyConstraint("number", name="pk_job"),
        sa.UniqueConstraint("id", name="uq_job_id"),
        sa.UniqueConstraint("idempotency_key", name="uq_job_idempotency_key"),
        sa.UniqueConstraint("owner", "task_id", name="uq_job_owner_task_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_owner_number", "job", ["owner", "number"])
    op.create_index("ix_job_state_due_at", "job", ["state", "due_at"])
    unswept = sa.text("deleted_at IS NOT NULL AND swept_at IS NULL")
    op.create_index("ix_job_unswept", "job", ["deleted_at"], sqlite_where=unswept, postgresql_where=unswept)
