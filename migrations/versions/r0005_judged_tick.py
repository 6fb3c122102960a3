"""Add judged_tick: what the judge saw and said, for replays (expand; the release before writes none of it)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Add the table; it is empty for rollouts that began before."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "judged_tick",
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("tick", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("previous", sa.BigInteger(), nullable=True),
        sa.Column("look", sa.Text(), nullable=False),
        sa.Column("gap", sa.Boolean(), nullable=False),
        sa.Column("counts", sa.LargeBinary(), nullable=False),
        sa.Column("exposure", JSON, nullable=False),
        sa.Column("heeded", JSON, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.CheckConstraint("look IN ('history', 'whole', 'partial')", name=op.f("ck_judged_tick_look")),
        sa.CheckConstraint(
            "verdict IN ('hold', 'advance', 'rollback', 'probe', 'ask')", name=op.f("ck_judged_tick_verdict")
        ),
        sa.ForeignKeyConstraint(["rollout"], ["rollout.id"], name="fk_judged_tick_rollout"),
        sa.PrimaryKeyConstraint("rollout", "tick", name="pk_judged_tick"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_judged_tick_tick", "judged_tick", ["tick"])
