"""Create the tables, and the triggers that keep history and revisions as they were written."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

APPEND_ONLY = ("history", "version", "endpoint", "route", "route_header", "slo", "plan_step", "initial_share")
FROZEN_COLUMNS = (
    "service, number, by, why, at, listener_name, listener_address, listener_port, listener_stat_prefix,"
    " virtual_host, route_config, domains, plan_deadline_us, plan_prepare_timeout_us"
)
"""Of a revision: only what the fleet made of it (status, words) may change."""


def upgrade() -> None:
    """Create everything."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    create_tables()
    guard_tables()


def guard_tables() -> None:
    """Refuse every change of what was written once."""
    guards = [(table, change) for table in APPEND_ONLY for change in ("UPDATE", "DELETE")]
    guards += [("service_revision", f"UPDATE OF {FROZEN_COLUMNS}"), ("service_revision", "DELETE")]
    if op.get_bind().dialect.name == "sqlite":
        for table, change in guards:
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.split()[0].lower()} BEFORE {change} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';"
        " END $$"
    )
    for table, change in guards:
        op.execute(
            f"CREATE TRIGGER {table}_no_{change.split()[0].lower()} BEFORE {change} ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    for table in (*APPEND_ONLY, "service_revision"):
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def create_tables() -> None:
    """Create the tables as `controlplane.store.tables` declared them on the day of this revision."""
    op.create_table(
        "api_key",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_api_key"),
        sa.UniqueConstraint("digest", name="uq_api_key_digest"),
    )
    op.create_index(
        "uq_api_key_live",
        "api_key",
        ["name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "cluster_health",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("healthy", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("node", "cluster", name="pk_cluster_health"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "counter_base",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("counters", JSON, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_counter_base"),
    )
    op.create_table(
        "histogram_gap",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("node", "since", name="pk_histogram_gap"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_lease"),
    )
    op.create_table(
        "node_status",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("replica", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("connected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disconnected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("types", JSON, nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_node_status"),
    )
    op.create_table(
        "resolved_address",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("addresses", JSON, nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_resolved_address"),
    )
    op.create_table(
        "service",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_service"),
    )
    op.create_table(
        "snapshot",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("versions", JSON, nullable=False),
        sa.Column("revisions", JSON, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('proposed', 'good', 'rejected')", name=op.f("ck_snapshot_status")),
        sa.PrimaryKeyConstraint("version", name="pk_snapshot"),
        sa.UniqueConstraint("serial", name="uq_snapshot_serial"),
    )
    op.create_table(
        "telemetry_beat",
        sa.Column("tick", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("reporting", sa.Integer(), nullable=False),
        sa.Column("silent", sa.Integer(), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tick", "source", name="pk_telemetry_beat"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "telemetry_tick",
        sa.Column("tick", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("started", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.BigInteger(), nullable=False),
        sa.Column("latency", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tick", "cluster", "source", name="pk_telemetry_tick"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollout",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("baseline", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("plan", JSON, nullable=False),
        sa.Column("slos", JSON, nullable=False),
        sa.Column("state_kind", sa.Text(), nullable=False),
        sa.Column("state", JSON, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("judge", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("judged_tick", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (state_kind IN ('promoted', 'rolled_back'))", name=op.f("ck_rollout_ended")
        ),
        sa.CheckConstraint(
            "state_kind IN ('preparing', 'shifting', 'baking', 'paused', 'rolling_back', 'promoted', 'rolled_back')",
            name=op.f("ck_rollout_state_kind"),
        ),
        sa.CheckConstraint("baseline <> candidate", name=op.f("ck_rollout_versions")),
        sa.ForeignKeyConstraint(["service"], ["service.name"], name="fk_rollout_service"),
        sa.PrimaryKeyConstraint("id", name="pk_rollout"),
        sa.UniqueConstraint("service", "number", name="uq_rollout_service_number"),
    )
    op.create_index("ix_rollout_started_at", "rollout", ["started_at"], unique=False)
    op.create_index(
        "uq_rollout_active",
        "rollout",
        ["service"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "service_revision",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("listener_name", sa.Text(), nullable=False),
        sa.Column("listener_address", sa.Text(), nullable=False),
        sa.Column("listener_port", sa.Integer(), nullable=False),
        sa.Column("listener_stat_prefix", sa.Text(), nullable=False),
        sa.Column("virtual_host", sa.Text(), nullable=False),
        sa.Column("route_config", sa.Text(), nullable=False),
        sa.Column("domains", JSON, nullable=False),
        sa.Column("plan_deadline_us", sa.BigInteger(), nullable=False),
        sa.Column("plan_prepare_timeout_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("status IN ('proposed', 'good', 'rejected')", name=op.f("ck_service_revision_status")),
        sa.CheckConstraint("listener_port BETWEEN 1 AND 65535", name=op.f("ck_service_revision_port")),
        sa.CheckConstraint("number > 0", name=op.f("ck_service_revision_number")),
        sa.ForeignKeyConstraint(["service"], ["service.name"], name="fk_service_revision_service"),
        sa.PrimaryKeyConstraint("service", "number", name="pk_service_revision"),
    )
    op.create_table(
        "split_share",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("weight_bp", sa.Integer(), nullable=False),
        sa.CheckConstraint("weight_bp BETWEEN 0 AND 10000", name=op.f("ck_split_share_weight")),
        sa.ForeignKeyConstraint(["service"], ["service.name"], name="fk_split_share_service"),
        sa.PrimaryKeyConstraint("service", "position", name="pk_split_share"),
        sa.UniqueConstraint("service", "version", name="uq_split_share_service_version"),
    )
    op.create_table(
        "command",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("full", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('pause', 'resume', 'promote', 'abort')", name=op.f("ck_command_kind")),
        sa.ForeignKeyConstraint(["rollout"], ["rollout.id"], name="fk_command_rollout"),
        sa.PrimaryKeyConstraint("number", name="pk_command"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_command_pending",
        "command",
        ["rollout", "number"],
        unique=False,
        sqlite_where=sa.text("handled_at IS NULL"),
        postgresql_where=sa.text("handled_at IS NULL"),
    )
    op.create_table(
        "history",
        sa.Column("number", SERIAL, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("rollout", sa.Text(), nullable=True),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.CheckConstraint("kind IN ('transition', 'refused', 'audit')", name=op.f("ck_history_kind")),
        sa.ForeignKeyConstraint(["rollout"], ["rollout.id"], name="fk_history_rollout"),
        sa.ForeignKeyConstraint(["service"], ["service.name"], name="fk_history_service"),
        sa.PrimaryKeyConstraint("number", name="pk_history"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_history_service_number", "history", ["service", "number"], unique=False)
    op.create_table(
        "plan_step",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("weight_bp", sa.Integer(), nullable=False),
        sa.Column("hold_us", sa.BigInteger(), nullable=False),
        sa.Column("pause", sa.Boolean(), nullable=False),
        sa.CheckConstraint("weight_bp BETWEEN 1 AND 10000", name=op.f("ck_plan_step_weight")),
        sa.ForeignKeyConstraint(
            ["service", "revision"],
            ["service_revision.service", "service_revision.number"],
            name="fk_plan_step_service_revision",
        ),
        sa.PrimaryKeyConstraint("service", "revision", "position", name="pk_plan_step"),
        sa.UniqueConstraint("service", "revision", "weight_bp", name="uq_plan_step_service_revision_weight_bp"),
    )
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
        sa.CheckConstraint(
            "(kind = 'error_rate' AND max_ratio IS NOT NULL AND threshold_ms IS NULL AND quantile IS NULL)"
            " OR (kind = 'latency' AND max_ratio IS NULL AND threshold_ms IS NOT NULL AND quantile IS NOT NULL)",
            name=op.f("ck_slo_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["service", "revision"],
            ["service_revision.service", "service_revision.number"],
            name="fk_slo_service_revision",
        ),
        sa.PrimaryKeyConstraint("service", "revision", "position", name="pk_slo"),
        sa.UniqueConstraint("service", "revision", "name", name="uq_slo_service_revision_name"),
    )
    op.create_table(
        "version",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("connect_timeout_us", sa.BigInteger(), nullable=False),
        sa.Column("check_path", sa.Text(), nullable=False),
        sa.Column("check_interval_us", sa.BigInteger(), nullable=False),
        sa.Column("check_timeout_us", sa.BigInteger(), nullable=False),
        sa.Column("check_healthy_threshold", sa.Integer(), nullable=False),
        sa.Column("check_unhealthy_threshold", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["service", "revision"],
            ["service_revision.service", "service_revision.number"],
            name="fk_version_service_revision",
        ),
        sa.PrimaryKeyConstraint("service", "revision", "position", name="pk_version"),
        sa.UniqueConstraint("service", "revision", "cluster", name="uq_version_service_revision_cluster"),
        sa.UniqueConstraint("service", "revision", "name", name="uq_version_service_revision_name"),
    )
    op.create_table(
        "endpoint",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.CheckConstraint("port BETWEEN 1 AND 65535", name=op.f("ck_endpoint_port")),
        sa.ForeignKeyConstraint(
            ["service", "revision", "version"],
            ["version.service", "version.revision", "version.name"],
            name="fk_endpoint_service_revision_version",
        ),
        sa.ForeignKeyConstraint(
            ["service", "revision"],
            ["service_revision.service", "service_revision.number"],
            name="fk_endpoint_service_revision",
        ),
        sa.PrimaryKeyConstraint("service", "revision", "position", name="pk_endpoint"),
        sa.UniqueConstraint(
            "service", "revision", "version", "host", "port", name="uq_endpoint_service_revision_version_host_port"
        ),
    )
    op.create_table(
        "idempotency_key",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("command", SERIAL, nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["command"], ["command.number"], name="fk_idempotency_key_command"),
        sa.ForeignKeyConstraint(["rollout"], ["rollout.id"], name="fk_idempotency_key_rollout"),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_key"),
    )
    op.create_table(
        "initial_share",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("weight_bp", sa.Integer(), nullable=False),
        sa.CheckConstraint("weight_bp BETWEEN 0 AND 10000", name=op.f("ck_initial_share_weight")),
        sa.ForeignKeyConstraint(
            ["service", "revision", "version"],
            ["version.service", "version.revision", "version.name"],
            name="fk_initial_share_service_revision_version",
        ),
        sa.ForeignKeyConstraint(
            ["service", "revision"],
            ["service_revision.service", "service_revision.number"],
            name="fk_initial_share_service_revision",
        ),
        sa.PrimaryKeyConstraint("service", "revision", "position", name="pk_initial_share"),
        sa.UniqueConstraint("service", "revision", "version", name="uq_initial_share_service_revision_version"),
    )
    op.create_table(
        "route",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("timeout_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["service", "revision", "version"],
            ["version.service", "version.revision", "version.name"],
            name="fk_route_service_revision_version",
        ),
        sa.ForeignKeyConstraint(
            ["service", "revision"],
            ["service_revision.service", "service_revision.number"],
            name="fk_route_service_revision",
        ),
        sa.PrimaryKeyConstraint("service", "revision", "position", name="pk_route"),
        sa.UniqueConstraint("service", "revision", "name", name="uq_route_service_revision_name"),
    )
    op.create_table(
        "route_header",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.CheckConstraint("rule IN ('exact', 'regex', 'present')", name=op.f("ck_route_header_rule")),
        sa.ForeignKeyConstraint(
            ["service", "revision", "route"],
            ["route.service", "route.revision", "route.name"],
            name="fk_route_header_service_revision_route",
        ),
        sa.ForeignKeyConstraint(
            ["service", "revision"],
            ["service_revision.service", "service_revision.number"],
            name="fk_route_header_service_revision",
        ),
        sa.PrimaryKeyConstraint("service", "revision", "position", name="pk_route_header"),
    )
