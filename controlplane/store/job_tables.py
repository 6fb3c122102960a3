"""The tables of jobs: kinds, jobs, the outbox that belongs to their transactions, and the queue that SQL can be."""

import sqlalchemy as sa

from controlplane.store.columns import Json, Serial, Span, UtcDateTime
from controlplane.store.tables import metadata

job_kind = sa.Table(
    "job_kind",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("workflow", sa.Text, nullable=False, unique=True),
    sa.Column("models", Json, nullable=False),
    sa.Column("min_px", sa.Integer, nullable=False),
    sa.Column("max_px", sa.Integer, nullable=False),
    sa.Column("default_px", sa.Integer, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("headers", Json, nullable=False),
    sa.Column("timeout_us", Span, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
    sa.Column("service", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("keep_us", Span, nullable=False, server_default="604800000000"),
    sa.Column("strip_metadata", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("label", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.CheckConstraint("min_px <= default_px AND default_px <= max_px", name="sizes"),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("task_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, sa.ForeignKey("job_kind.name"), nullable=False),
    sa.Column("workflow", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("vip", sa.Boolean, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("image_url", sa.Text, nullable=False),
    sa.Column("photo_key", sa.Text, nullable=False),
    sa.Column("photo_type", sa.Text, nullable=False),
    sa.Column("photo_bytes", sa.BigInteger, nullable=False),
    sa.Column("photo_sha256", sa.Text, nullable=False),
    sa.Column("result_key", sa.Text),
    sa.Column("result_type", sa.Text),
    sa.Column("result_bytes", sa.BigInteger),
    sa.Column("result_sha256", sa.Text),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("submitted_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("deleted_at", UtcDateTime),
    sa.Column("swept_at", UtcDateTime),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("first_started_at", UtcDateTime),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("stable_only", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("owner", "task_id"),
    sa.CheckConstraint("state IN ('waiting', 'running', 'done', 'dead', 'cancelled')", name="state"),
    sa.CheckConstraint("(state = 'done') = (result_key IS NOT NULL)", name="result"),
    sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
    sa.CheckConstraint("(state IN ('done', 'dead', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"),
    sa.Index("ix_job_owner_number", "owner", "number"),
    sa.Index("ix_job_owner_submitted_at", "owner", "submitted_at"),
    sa.Index("ix_job_state_due_at", "state", "due_at"),
    sqlite_autoincrement=True,
)
"""*due_at*: the last time that somebody was told to look at a job that waits. *photo_key*: "" while the photo
at *image_url* was not fetched yet. *image_url* is forgotten with a job that is deleted. *stable_only*: a candidate
failed it, so that it runs at the stable version from now on. *expires_at*: when its pictures go; null again once they
are gone, since *swept_at*."""

sa.Index(
    "ix_job_unswept",
    job.c.deleted_at,
    sqlite_where=sa.text("deleted_at IS NOT NULL AND swept_at IS NULL"),
    postgresql_where=sa.text("deleted_at IS NOT NULL AND swept_at IS NULL"),
)

sa.Index(
    "ix_job_expires_at",
    job.c.expires_at,
    sqlite_where=sa.text("expires_at IS NOT NULL AND deleted_at IS NULL"),
    postgresql_where=sa.text("expires_at IS NOT NULL AND deleted_at IS NULL"),
)
sa.Index("ix_job_finished_at", job.c.finished_at)

sa.Index(
    "ix_job_owner_open",
    job.c.owner,
    sqlite_where=sa.text("finished_at IS NULL"),
    postgresql_where=sa.text("finished_at IS NULL"),
)
sa.Index(
    "ix_job_owner_stored",
    job.c.owner,
    job.c.photo_bytes,
    job.c.result_bytes,
    sqlite_where=sa.text("swept_at IS NULL"),
    postgresql_where=sa.text("swept_at IS NULL"),
)

job_attempt = sa.Table(
    "job_attempt",
    metadata,
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, autoincrement=False, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("job", "attempt"),
    sa.CheckConstraint("outcome IN ('done', 'failed', 'refused', 'away', 'lost', 'thrown')", name="outcome"),
    sa.Index("ix_job_attempt_ended_at", "ended_at"),
    sa.Index("ix_job_attempt_service", "service", "version", "ended_at"),
)
"""Each attempt that has ended, and at which version: what figures per version are made of. *version* is "" where it is
not known: nobody answered. *lost*: its process went away; *thrown*: its picture came too late to count."""

job_owner = sa.Table(
    "job_owner",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("keep_us", Span),
    sa.Column("max_waiting", sa.Integer),
    sa.Column("max_daily", sa.Integer),
    sa.Column("max_bytes", sa.BigInteger),
    sa.Column("vip", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("applied_at", UtcDateTime, nullable=False),
)
"""What was agreed with an owner of jobs; an owner without a row has the settings' limits, and the kinds' times."""

job_reroute = sa.Table(
    "job_reroute",
    metadata,
    sa.Column("rollout", sa.Text, primary_key=True),
    sa.Column("jobs", sa.Integer, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)
"""Rollouts that went back, and how many jobs ran again for that."""

job_outbox = sa.Table(
    "job_outbox",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("job", sa.Text, sa.ForeignKey("job.id"), nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("vip", sa.Boolean, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Index("ix_job_outbox_due_at", "due_at"),
    sa.Index("ix_job_outbox_job", "job"),
    sqlite_autoincrement=True,
)

job_message = sa.Table(
    "job_message",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("vip", sa.Boolean, nullable=False),
    sa.Column("taken_until", UtcDateTime),
    sa.Column("taken", sa.Integer, nullable=False),
    sa.Column("dead_words", sa.Text),
    sa.Index("ix_job_message_queue", "queue", "vip", "number"),
    sqlite_autoincrement=True,
)
"""What a broker would hold, where there is none. *taken* counts deliveries; the last one may acknowledge."""
