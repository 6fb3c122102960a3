"""The tables of access: sessions, log-ins, share links, and what the audit tells that no service's history does."""

import sqlalchemy as sa

from controlplane.store.columns import Json, Serial, UtcDateTime
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

session = sa.Table(
    "session",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("standing", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("claims", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Index("ix_session_subject_created_at", "subject", "created_at"),
    sa.Index("ix_session_expires_at", "expires_at"),
)
"""Of a cookie only the digest is here; what its owner may is looked up elsewhere, each time."""

login = sa.Table(
    "login",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("verifier", sa.Text, nullable=False),
    sa.Column("back_to", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index("ix_login_at", "at"),
)
"""Log-ins at the OIDC provider that have begun, by their state's digest; each is taken once."""

share = sa.Table(
    "share",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sa.Column("service", sa.Text, sa.ForeignKey("service.name"), nullable=False),
    sa.Column("rollout", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("revoked_at", UtcDateTime),
    sa.Index("ix_share_service_number", "service", "number"),
    sqlite_autoincrement=True,
)
