"""The tables of what was heard: counts per second, what Envoys say of their members, what the judge saw, samples.

Rows come by the second and are pruned; `tables` has what stays.
"""

import sqlalchemy as sa

from controlplane.store.columns import Json, UtcDateTime
from controlplane.store.tables import metadata

telemetry_tick = sa.Table(
    "telemetry_tick",
    metadata,
    # The tick comes first: writers append to one place, readers and the pruner take a range.
    sa.Column("tick", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("completed", sa.BigInteger, nullable=False),
    sa.Column("errors", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger, nullable=False),
    sa.Column("active", sa.BigInteger, nullable=False),
    sa.Column("latency", sa.LargeBinary, nullable=False),
    sa.Column("codes", Json, nullable=False, server_default="{}"),
    sqlite_with_rowid=False,
)
"""*codes* is one JSON object, requests by status, since most ticks have none and nothing asks for a single one."""

telemetry_beat = sa.Table(
    "telemetry_beat",
    metadata,
    sa.Column("tick", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("reporting", sa.Integer, nullable=False),
    sa.Column("silent", sa.Integer, nullable=False),
    sa.Column("closed", sa.Boolean, nullable=False),
    sqlite_with_rowid=False,
)

counter_base = sa.Table(
    "counter_base",
    metadata,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("counters", Json, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)

cluster_health = sa.Table(
    "cluster_health",
    metadata,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("healthy", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

model_report = sa.Table(
    "model_report",
    metadata,
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("models", Json, nullable=False),
    sa.Column("code_version", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime),
    sqlite_with_rowid=False,
)

histogram_gap = sa.Table(
    "histogram_gap",
    metadata,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("since", UtcDateTime, primary_key=True),
    sa.Column("until", UtcDateTime, nullable=False),
    sqlite_with_rowid=False,
)

judged_tick = sa.Table(
    "judged_tick",
    metadata,
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("tick", sa.BigInteger, primary_key=True, autoincrement=False, index=True),
    sa.Column("previous", sa.BigInteger),
    sa.Column("look", sa.Text, nullable=False),
    sa.Column("gap", sa.Boolean, nullable=False),
    sa.Column("counts", sa.LargeBinary, nullable=False),
    sa.Column("exposure", Json, nullable=False),
    sa.Column("heeded", Json, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("odds", Json, nullable=False, server_default="{}"),
    sa.CheckConstraint("look IN ('history', 'whole', 'partial')", name="look"),
    sa.CheckConstraint("verdict IN ('hold', 'advance', 'rollback', 'probe', 'ask')", name="verdict"),
    sqlite_with_rowid=False,
)
"""Written with the rollout that it moved, pruned with telemetry. *exposure* is ``{}`` before there was any."""

telemetry_rollup = sa.Table(
    "telemetry_rollup",
    metadata,
    sa.Column("span_s", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("begin", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("completed", sa.BigInteger, nullable=False),
    sa.Column("errors", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger, nullable=False),
    sa.Column("active", sa.BigInteger, nullable=False),
    sa.Column("latency", sa.LargeBinary, nullable=False),
    sa.Column("codes", Json, nullable=False, server_default="{}"),
    sqlite_with_rowid=False,
)
"""Sums of `telemetry_tick` over a minute or an hour, which stay when the seconds are gone. *active* is at the end."""

query_sample = sa.Table(
    "query_sample",
    metadata,
    # One objective's samples lie together: each is read with the one before it.
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("tick", sa.BigInteger, primary_key=True, autoincrement=False, index=True),
    sa.Column("baseline", sa.Double),
    sa.Column("baseline_bad", sa.Double),
    sa.Column("candidate", sa.Double),
    sa.Column("candidate_bad", sa.Double),
    sa.Column("words", sa.Text, nullable=False),
    sa.CheckConstraint("words <> '' OR candidate IS NOT NULL", name="known"),
    sqlite_with_rowid=False,
)
"""What was asked for, raw: a value, or a ratio's total and its bad ones. Where *words* are not empty, why not."""

quality_run = sa.Table(
    "quality_run",
    metadata,
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollout.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False, index=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("verdict", sa.Text),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("old", sa.Text, nullable=False),
    sa.Column("new", sa.Text, nullable=False),
    sa.Column("report", Json, nullable=False),
    sa.CheckConstraint("status IN ('running', 'done', 'failed')", name="status"),
    sa.CheckConstraint("(status = 'done') = (verdict IS NOT NULL)", name="done"),
    sa.CheckConstraint("(status = 'running') = (ended_at IS NULL)", name="ended"),
    sa.CheckConstraint("verdict IS NULL OR verdict IN ('ok', 'drift', 'block')", name="verdict"),
)
"""A comparison of both versions' pictures. One that came to nothing is begun anew in its row."""

quality_picture = sa.Table(
    "quality_picture",
    metadata,
    sa.Column("rollout", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("jpeg", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["rollout", "number"], ["quality_run.rollout", "quality_run.number"]),
)
"""The pictures that speak most against a candidate: some 40 kB each, gone with the telemetry."""
