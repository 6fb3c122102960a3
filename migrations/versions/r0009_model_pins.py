"""Versions may pin their model, and workers' reports of theirs are kept (expand; the release before pins nothing)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the columns and the table."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    for name in ("model_name", "model_checksum", "model_code_version"):
        op.add_column("version", sa.Column(name, sa.Text(), nullable=True))
    op.create_table(
        "model_report",
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("models", JSON, nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("cluster", "address", name="pk_model_report"),
        sqlite_with_rowid=False,
    )
