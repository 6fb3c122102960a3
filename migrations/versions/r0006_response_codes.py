"""Add telemetry_tick.codes: requests by status (expand; the release before ignores it, and its rows have none)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.add_column("telemetry_tick", sa.Column("codes", json, nullable=False, server_default=sa.text("'{}'")))
