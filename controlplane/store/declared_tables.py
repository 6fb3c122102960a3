"""The table of what documents declared."""

import sqlalchemy as sa

from controlplane.store.columns import Json, UtcDateTime
from controlplane.store.tables import metadata

declaration = sa.Table(
    "declaration",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("document", Json, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("rollout", sa.Text, nullable=False),
    sa.CheckConstraint("kind IN ('Service', 'Version', 'SLO', 'Plan', 'Rollout')", name="kind"),
    sa.Index("ix_declaration_owner", "owner"),
)
"""What `rollout` and `service_revision` were made from; those stay the truth, and this tells who keeps it where."""
