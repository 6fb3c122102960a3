"""Add what documents declared and by whom, and the end of a service (expand; the previous release ignores them)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0023"
down_revision = "0021"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the table and the column."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "declaration",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("document", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_declaration"),
        sa.CheckConstraint(
            "kind IN ('Service', 'Version', 'SLO', 'Plan', 'Rollout')", name=op.f("ck_declaration_kind")
        ),
    )
    op.create_index("ix_declaration_owner", "declaration", ["owner"])
    op.add_column("service", sa.Column("gone_through", sa.Integer(), nullable=False, server_default="0"))
