"""The tables. The catalogue is relational and scoped to a revision that never changes; rollouts freeze their plan.

Plans and objectives inside a rollout are JSON: nothing joins on them, and they must read as they did on the day. Spans
are whole microseconds, moments are UTC. `migrations/` creates all this; a test compares the two.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from controlplane.store.columns import Json, Serial, Span, UtcDateTime

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

SHARE_RANGE = "weight_bp BETWEEN 0 AND 10000"
PORT_RANGE = "port BETWEEN 1 AND 65535"
SLO_KINDS = (
    "(kind = 'latency') = (threshold_ms IS NOT NULL AND quantile IS NOT NULL)"
    " AND (kind IN ('latency', 'client_errors', 'quality') OR max_ratio IS NOT NULL)"
    " AND (kind = 'client_errors') = (floor IS NOT NULL)"
    " AND (kind = 'query_ratio') = (bad_query IS NOT NULL AND total_query IS NOT NULL)"
    " AND (kind = 'query_value') = (value_query IS NOT NULL)"
    " AND (kind = 'quality') = (delta_e IS NOT NULL AND hue_deg IS NOT NULL AND chroma IS NOT NULL"
    " AND ssim IS NOT NULL AND on_drift IS NOT NULL AND photos IS NOT NULL AND path IS NOT NULL)"
    " AND kind IN ('error_rate', 'latency', 'client_errors', 'query_ratio', 'query_value', 'quality')"
)
REVIEWED = "status IN ('proposed', 'good', 'rejected')"


def _of_revision(name: str, *parts: sa.schema.SchemaItem) -> sa.Table:
    """Declare a table of things that belong to one revision, in the order of *position*."""
    return sa.Table(
        name,
        metadata,
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        *parts,
        sa.ForeignKeyConstraint(["service", "revision"], ["service_revision.service", "service_revision.number"]),
    )


# -- catalogue ---------------------------------------------------------------------------------------------------------

service = sa.Table(
    "service",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("gone_through", sa.Integer, nullable=False, server_default="0"),
)
"""Revisions up to *gone_through* are of a service that was deleted: kept with its history, but nothing of it is served.

The row stays, and a service that is declared again goes on counting its revisions and rollouts.
"""

split_share = sa.Table(
    "split_share",
    metadata,
    sa.Column("service", sa.Text, sa.ForeignKey("service.name"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("weight_bp", sa.Integer, nullable=False),
    sa.CheckConstraint(SHARE_RANGE, name="weight"),
    sa.UniqueConstraint("service", "version"),
)
"""The live split: the only weights that change, by `set_split` and by a rollout's end."""

service_revision = sa.Table(
    "service_revision",
    metadata,
    sa.Column("service", sa.Text, sa.ForeignKey("service.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("listener_name", sa.Text, nullable=False),
    sa.Column("listener_address", sa.Text, nullable=False),
    sa.Column("listener_port", sa.Integer, nullable=False),
    sa.Column("listener_stat_prefix", sa.Text, nullable=False),
    sa.Column("listener_certificate", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("virtual_host", sa.Text, nullable=False),
    sa.Column("route_config", sa.Text, nullable=False),
    sa.Column("domains", Json, nullable=False),
    sa.Column("grpc_target", sa.Text),
    sa.Column("plan_deadline_us", Span, nullable=False),
    sa.Column("plan_prepare_timeout_us", Span, nullable=False),
    sa.Column("groups", Json, nullable=False, server_default="[]"),
    sa.Column("config_canary_us", Span, nullable=False, server_default="0"),
    sa.Column("mirror_to", sa.Text),
    sa.Column("mirror_share_bp", sa.Integer),
    sa.Column("draw_header", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("tried_at", UtcDateTime),
    sa.CheckConstraint("number > 0", name="number"),
    sa.CheckConstraint(REVIEWED, name="status"),
    sa.CheckConstraint("listener_port BETWEEN 1 AND 65535", name="port"),
)

version = _of_revision(
    "version",
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("connect_timeout_us", Span, nullable=False),
    sa.Column("check_path", sa.Text, nullable=False),
    sa.Column("check_interval_us", Span, nullable=False),
    sa.Column("check_timeout_us", Span, nullable=False),
    sa.Column("check_healthy_threshold", sa.Integer, nullable=False),
    sa.Column("check_unhealthy_threshold", sa.Integer, nullable=False),
    sa.Column("model_name", sa.Text),
    sa.Column("model_checksum", sa.Text),
    sa.Column("model_code_version", sa.Text),
    sa.UniqueConstraint("service", "revision", "name"),
    sa.UniqueConstraint("service", "revision", "cluster"),
)

_VERSION_KEY = ["version.service", "version.revision", "version.name"]

endpoint = _of_revision(
    "endpoint",
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["service", "revision", "version"], _VERSION_KEY),
    sa.UniqueConstraint("service", "revision", "version", "host", "port"),
    sa.CheckConstraint(PORT_RANGE, name="port"),
)

route = _of_revision(
    "route",
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("version", sa.Text),
    sa.Column("timeout_us", Span, nullable=False),
    sa.ForeignKeyConstraint(["service", "revision", "version"], _VERSION_KEY),
    sa.UniqueConstraint("service", "revision", "name"),
)

route_header = _of_revision(
    "route_header",
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["service", "revision", "route"], ["route.service", "route.revision", "route.name"]),
    sa.CheckConstraint("rule IN ('exact', 'regex', 'present')", name="rule"),
)

slo = _of_revision(
    "slo",
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("max_ratio", sa.Double),
    sa.Column("threshold_ms", sa.Double),
    sa.Column("quantile", sa.Double),
    sa.Column("bad", Json, nullable=False, server_default="[]"),
    sa.Column("floor", sa.Double),
    sa.Column("bad_query", sa.Text),
    sa.Column("total_query", sa.Text),
    sa.Column("value_query", sa.Text),
    sa.Column("highest", sa.Double),
    sa.Column("lowest", sa.Double),
    sa.Column("interval_s", sa.Double),
    sa.Column("on_breach", sa.Text, nullable=False, server_default="rollback"),
    sa.Column("muted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("alpha", sa.Double),
    sa.Column("tolerance", sa.Double),
    sa.Column("budget", sa.Double, nullable=False, server_default="10"),
    sa.Column("quiet_s", sa.Double, nullable=False, server_default="30"),
    sa.Column("delta_e", sa.Double),
    sa.Column("hue_deg", sa.Double),
    sa.Column("chroma", sa.Double),
    sa.Column("ssim", sa.Double),
    sa.Column("on_drift", sa.Text),
    sa.Column("photos", sa.Integer),
    sa.Column("path", sa.Text),
    sa.Column("features", sa.Double),
    sa.Column("live", sa.Boolean),
    sa.UniqueConstraint("service", "revision", "name"),
    sa.CheckConstraint(SLO_KINDS, name="kind"),
    sa.CheckConstraint("on_breach IN ('rollback', 'pause')", name="on_breach"),
    sa.CheckConstraint("on_drift IS NULL OR on_drift IN ('allow', 'ask', 'block')", name="on_drift"),
)

plan_step = _of_revision(
    "plan_step",
    sa.Column("weight_bp", sa.Integer, nullable=False),
    sa.Column("hold_us", Span, nullable=False),
    sa.Column("pause", sa.Boolean, nullable=False),
    sa.Column("quality", sa.Boolean),
    sa.Column("gate", Json),
    sa.UniqueConstraint("service", "revision", "weight_bp"),
    sa.CheckConstraint("weight_bp BETWEEN 1 AND 10000", name="weight"),
)

initial_share = _of_revision(
    "initial_share",
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("weight_bp", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["service", "revision", "version"], _VERSION_KEY),
    sa.UniqueConstraint("service", "revision", "version"),
    sa.CheckConstraint(SHARE_RANGE, name="weight"),
)

REVISION_PARTS = (version, endpoint, route, route_header, slo, plan_step, initial_share)
"""In the order in which rows must be inserted. Triggers refuse to change or delete any of them."""

resolved_address = sa.Table(
    "resolved_address",
    metadata,
    sa.Column("host", sa.Text, primary_key=True),
    sa.Column("addresses", Json, nullable=False),
    sa.Column("resolved_at", UtcDateTime, nullable=False),
)

# -- rollouts ----------------------------------------------------------------------------------------------------------

rollout = sa.Table(
    "rollout",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("service", sa.Text, sa.ForeignKey("service.name"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("baseline", sa.Text, nullable=False),
    sa.Column("candidate", sa.Text, nullable=False),
    sa.Column("plan", Json, nullable=False),
    sa.Column("slos", Json, nullable=False),
    sa.Column("state_kind", sa.Text, nullable=False),
    sa.Column("state", Json, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("deadline_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("judge", sa.Text),
    sa.Column("evidence", sa.Text),
    sa.Column("judged_tick", sa.BigInteger),
    sa.Column("asked", sa.Text),
    sa.UniqueConstraint("service", "number"),
    sa.CheckConstraint("baseline <> candidate", name="versions"),
    sa.CheckConstraint(
        "state_kind IN ('preparing', 'shifting', 'baking', 'paused', 'rolling_back', 'promoted', 'rolled_back')",
        name="state_kind",
    ),
    sa.CheckConstraint("(ended_at IS NOT NULL) = (state_kind IN ('promoted', 'rolled_back'))", name="ended"),
)
"""*version* is the optimistic lock: it counts saves."""

sa.Index(
    "uq_rollout_active",
    rollout.c.service,
    unique=True,
    sqlite_where=sa.text("ended_at IS NULL"),
    postgresql_where=sa.text("ended_at IS NULL"),
)
sa.Index("ix_rollout_started_at", rollout.c.started_at)

command = sa.Table(
    "command",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollout.id"), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("full", sa.Boolean, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("handled_at", UtcDateTime),
    sa.Column("undo", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.CheckConstraint("kind IN ('pause', 'resume', 'promote', 'abort')", name="kind"),
    sqlite_autoincrement=True,
)
sa.Index(
    "ix_command_pending",
    command.c.rollout,
    command.c.number,
    sqlite_where=sa.text("handled_at IS NULL"),
    postgresql_where=sa.text("handled_at IS NULL"),
)

history = sa.Table(
    "history",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("service", sa.Text, sa.ForeignKey("service.name"), nullable=False),
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollout.id")),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("before", sa.Text, nullable=False),
    sa.Column("after", sa.Text, nullable=False),
    sa.Column("weights", sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")),
    sa.CheckConstraint("kind IN ('transition', 'refused', 'audit')", name="kind"),
    sa.Index("ix_history_service_number", "service", "number"),
    sa.Index("ix_history_rollout_number", "rollout", "number"),
    sqlite_autoincrement=True,
)
"""Append-only: triggers refuse every UPDATE and DELETE."""
_TOLD = sa.text("kind IN ('audit', 'refused')")
sa.Index("ix_history_told", history.c.at, history.c.number, sqlite_where=_TOLD, postgresql_where=_TOLD)

idempotency_key = sa.Table(
    "idempotency_key",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollout.id"), nullable=False),
    sa.Column("command", Serial, sa.ForeignKey("command.number")),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index("ix_idempotency_key_at", "at"),
)
"""What an idempotency key was used for; *request* tells a repetition from a mistake."""

given_answer = sa.Table(
    "given_answer",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("headers", Json, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("ix_given_answer_at", "at"),
)
"""What requests with idempotency keys were answered; while *status* is null, somebody who came at *at* answers."""

# -- fleet -------------------------------------------------------------------------------------------------------------

node_status = sa.Table(
    "node_status",
    metadata,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("replica", sa.Text, nullable=False),
    sa.Column("variant", sa.Text, nullable=False),
    sa.Column("connected_at", UtcDateTime, nullable=False),
    sa.Column("disconnected_at", UtcDateTime),
    sa.Column("types", Json, nullable=False),
    sa.Column("node_group", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("user_agent", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("is_envoy", sa.Boolean, nullable=False, server_default=sa.true()),
)
"""*types* is one JSON object, so that an ACK is one row and one statement: it lies on the way of every weight."""

snapshot = sa.Table(
    "snapshot",
    metadata,
    sa.Column("node_group", sa.Text, primary_key=True, server_default=sa.text("''")),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("serial", sa.BigInteger, nullable=False, unique=True),
    sa.Column("versions", Json, nullable=False),
    sa.Column("revisions", Json, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.CheckConstraint(REVIEWED, name="status"),
)
"""*serial* orders by when a snapshot was last proposed: one that is served again becomes the newest again."""

envoy_answer = sa.Table(
    "envoy_answer",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("acked", sa.Boolean, nullable=False),
    sa.Column("nodes", Json, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
)
"""Numbered in one row with the history: together they are the log that event streams tell. Pruned with telemetry."""

# -- who may ask, who may move -----------------------------------------------------------------------------------------

api_key = sa.Table(
    "api_key",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("revoked_at", UtcDateTime),
    sa.Column("grants", Json),
)
"""*grants* is null for keys from before there were any, an empty list for those that may nothing."""
sa.Index(
    "uq_api_key_live",
    api_key.c.name,
    unique=True,
    sqlite_where=sa.text("revoked_at IS NULL"),
    postgresql_where=sa.text("revoked_at IS NULL"),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)
