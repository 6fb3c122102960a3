"""Objectives about pictures, and comparisons of them (expand; the release before reads the kinds that it knows)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MOMENT = sa.DateTime(timezone=True)

KINDS = (
    "(kind = 'latency') = (threshold_ms IS NOT NULL AND quantile IS NOT NULL)"
    " AND (kind IN ('latency', 'client_errors', 'quality') OR max_ratio IS NOT NULL)"
    " AND (kind = 'client_errors') = (floor IS NOT NULL)"
    " AND (kind = 'query_ratio') = (bad_query IS NOT NULL AND total_query IS NOT NULL)"
    " AND (kind = 'query_value') = (value_query IS NOT NULL)"
    " AND (kind = 'quality') = (delta_e IS NOT NULL AND hue_deg IS NOT NULL AND chroma IS NOT NULL"
    " AND ssim IS NOT NULL AND on_drift IS NOT NULL AND photos IS NOT NULL AND path IS NOT NULL)"
    " AND kind IN ('error_rate', 'latency', 'client_errors', 'query_ratio', 'query_value', 'quality')"
)
ON_BREACH = "on_breach IN ('rollback', 'pause')"
ON_DRIFT = "on_drift IS NULL OR on_drift IN ('allow', 'ask', 'block')"
BEFORE = (
    "service, revision, position, name, kind, max_ratio, threshold_ms, quantile, bad, floor, bad_query, total_query,"
    " value_query, highest, lowest, interval_s, on_breach, muted, alpha, tolerance, budget, quiet_s"
)


def upgrade() -> None:
    """Add the columns and the tables, and let objectives be of the new kind."""
    if op.get_bind().dialect.name == "sqlite":
        rebuild_slo()
    else:
        op.execute("SET LOCAL lock_timeout = '4s'")
        for column in new_columns():
            op.add_column("slo", column)
        op.drop_constraint("ck_slo_kind", "slo")
        op.create_check_constraint(op.f("ck_slo_kind"), "slo", KINDS)
        op.create_check_constraint(op.f("ck_slo_on_drift"), "slo", ON_DRIFT)
    op.add_column("plan_step", sa.Column("quality", sa.Boolean(), nullable=True))
    op.add_column("rollout", sa.Column("asked", sa.Text(), nullable=True))
    create_runs()


def create_runs() -> None:
    """Create the tables of comparisons."""
    op.create_table(
        "quality_run",
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("old", sa.Text(), nullable=False),
        sa.Column("new", sa.Text(), nullable=False),
        sa.Column("report", JSON, nullable=False),
        sa.CheckConstraint("status IN ('running', 'done', 'failed')", name=op.f("ck_quality_run_status")),
        sa.CheckConstraint("(status = 'done') = (verdict IS NOT NULL)", name=op.f("ck_quality_run_done")),
        sa.CheckConstraint("(status = 'running') = (ended_at IS NULL)", name=op.f("ck_quality_run_ended")),
        sa.CheckConstraint(
            "verdict IS NULL OR verdict IN ('ok', 'drift', 'block')", name=op.f("ck_quality_run_verdict")
        ),
        sa.ForeignKeyConstraint(["rollout"], ["rollout.id"], name="fk_quality_run_rollout"),
        sa.PrimaryKeyConstraint("rollout", "number", name="pk_quality_run"),
    )
    op.create_index("ix_quality_run_at", "quality_run", ["at"])
    op.create_table(
        "quality_picture",
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("jpeg", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout", "number"], ["quality_run.rollout", "quality_run.number"], name="fk_quality_picture_rollout"
        ),
        sa.PrimaryKeyConstraint("rollout", "number", "place", name="pk_quality_picture"),
    )


def new_columns() -> list[sa.Column[object]]:
    """Declare what objectives about pictures have."""
    return [
        sa.Column("delta_e", sa.Double(), nullable=True),
        sa.Column("hue_deg", sa.Double(), nullable=True),
        sa.Column("chroma", sa.Double(), nullable=True),
        sa.Column("ssim", sa.Double(), nullable=True),
        sa.Column("on_drift", sa.Text(), nullable=True),
        sa.Column("photos", sa.Integer(), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("features", sa.Double(), nullable=True),
        sa.Column("live", sa.Boolean(), nullable=True),
    ]


def rebuild_slo() -> None:
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
        *new_columns(),
        sa.CheckConstraint(KINDS, name=op.f("ck_slo_kind")),
        sa.CheckConstraint(ON_BREACH, name=op.f("ck_slo_on_breach")),
        sa.CheckConstraint(ON_DRIFT, name=op.f("ck_slo_on_drift")),
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
