"""Add the indexes that owners' quotas are counted by in each submission (expand; the release before ignores them)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"


def upgrade() -> None:
    """Add them: without, a submission reads all rows that its owner ever made."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    is_open = sa.text("finished_at IS NULL")
    op.create_index("ix_job_owner_open", "job", ["owner"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("ix_job_owner_submitted_at", "job", ["owner", "submitted_at"])
    stored = sa.text("swept_at IS NULL")
    op.create_index(
        "ix_job_owner_stored",
        "job",
        ["owner", "photo_bytes", "result_bytes"],
        sqlite_where=stored,
        postgresql_where=stored,
    )
