"""Add gates to steps of plans, and the newest answer of the one that a rollout stands before (expand)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025"
down_revision = "0024"

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add a column that may be empty, which the release before need not know, and a table."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column("plan_step", sa.Column("gate", JSON, nullable=True))
    op.create_table(
        "gate_answer",
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("began_at", MOMENT, nullable=False),
        sa.Column("asked_at", MOMENT, nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollout.id"], name="fk_gate_answer_rollout"),
        sa.PrimaryKeyConstraint("rollout", name="pk_gate_answer"),
    )
