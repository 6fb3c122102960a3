"""Objectives of more kinds, each with its own terms (expand; the release before reads those that it knows)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

KINDS = (
    "(kind = 'latency') = (threshold_ms IS NOT NULL AND quantile IS NOT NULL)"
    " AND (kind IN ('latency', 'client_errors') OR max_ratio IS NOT NULL)"
    " AND (kind = 'client_errors') = (floor IS NOT NULL)"
    " AND (kind = 'query_ratio') = (bad_query IS NOT NULL AND total_query IS NOT NULL)"
    " AND (kind = 'query_value') = (value_query IS NOT NULL)"
    " AND kind IN ('error_rate', 'latency', 'client_errors', 'query_ratio', 'query_value')"
)
ON_BREACH = "on_breach IN ('rollback', 'pause')"
BEFORE = "service, revision, position, name, kind, max_ratio, threshold_ms, quantile"


def upgrade() -> None:
    """Add the columns, and let the table hold the new kinds."""
    if op.get_bind().dialect.name == "sqlite":
        rebuild()
        return
    op.execute("SET LOCAL lock_timeout = '4s'")
    for column in new_columns():
        op.add_column("slo", column)
    op.drop_constraint("ck_slo_kind", "slo")
    op.create_check_constraint(op.f("ck_slo_kind"), "slo", KINDS)
    op.create_check_constraint(op.f("ck_slo_on_breach"), "slo", ON_BREACH)


def new_columns() -> list[sa.Column[object]]:
    """Declare what this revision adds; whoever does not know it writes the defaults."""
    return [
        sa.Column("bad", JSON, nullable=False, server_default="[]"),
        sa.Column("floor", sa.Double(), nullable=True),
        sa.Column("bad_query", sa.Text(), nullable=True),
        sa.Column("total_query", sa.Text(), nullable=True),
        sa.Column("value_query", sa.Text(), nullable=True),
        sa.Column("highest", sa.Double(), nullable=True),
        sa.Column("lowest", sa.Double(), nullable=True),
        sa.Column("interval_s", sa.Double(), nullable=True),
        sa.Column("on_breach", sa.Text(), nullable=False, server_default="rollback"),
        sa.Column("muted", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("alpha", sa.Double(), nullable=True),
        sa.Column("tolerance", sa.Double(), nullable=True),
        sa.Column("budget", sa.Double(), nullable=False, server_default="10"),
        sa.Column("quiet_s", sa.Double(), nullable=False, server_default="30"),
    ]


def rebuild() -> None:
    """SQLite cannot change a constraint in place; the triggers go with the old table."""
    op.rename_table("slo", "slo_before")
    op.create_table(
        "slo",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("max_ratio", sa.Double(), nullable=True),
        sa.Column("threshold_ms", sa.Double(), nullable=True),
        sa.Column("quantile", sa.Double(), nullable=True),
        *new_columns(),
        sa.CheckConstraint(KINDS, name=op.f("ck_slo_kind")),
        sa.CheckConstraint(ON_BREACH, name=op.f("ck_slo_on_breach")),
        sa.ForeignKeyConstraint(
            ["service", "revision"],
            ["service_revision.service", "service_revision.number"],
            name="fk_slo_service_revision",
        ),
        sa.PrimaryKeyConstraint("service", "revision", "position", name="pk_slo"),
        sa.UniqueConstraint("service", "revision", "name", name="uq_slo_service_revision_name"),
    )
    op.execute(f"INSERT INTO slo ({BEFORE}) SELECT {BEFORE} FROM slo_before")  # noqa: S608 - our own names
    op.drop_table("slo_before")
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER slo_no_{change.lower()} BEFORE {change} ON slo"
            " BEGIN SELECT RAISE(ABORT, 'slo is append-only'); END"
        )
