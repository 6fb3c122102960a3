"""The tables of access: what the audit tells that no service's history does."""

import sqlalchemy as sa

from controlplane.store.columns import Serial, UtcDateTime
from controlplane.store.tables import metadata

audit_event = sa.Table(
    "audit_event",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("last_at", UtcDateTime, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("bucket", sa.Text, unique=True),
    sa.Index("ix_audit_event_at_number", "at", "number"),
    sqlite_autoincrement=True,
)
"""*service* is no foreign key: who is denied may have named one that does not exist. *bucket* is null for changes;
denials of one bucket are one row, and *count* says how many."""
_DENIED = sa.text("bucket IS NOT NULL")
sa.Index("ix_audit_event_denied", audit_event.c.at, sqlite_where=_DENIED, postgresql_where=_DENIED)
