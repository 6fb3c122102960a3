"""Add service_revision.mirror_to and .mirror_share_bp (expand; the release before ignores them)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns, and let nobody change them afterwards."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column("service_revision", sa.Column("mirror_to", sa.Text(), nullable=True))
    op.add_column("service_revision", sa.Column("mirror_share_bp", sa.Integer(), nullable=True))
    change = (
        "CREATE TRIGGER service_revision_no_remirror BEFORE UPDATE OF mirror_to, mirror_share_bp ON service_revision"
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"{change} BEGIN SELECT RAISE(ABORT, 'service_revision is append-only'); END")
    else:
        op.execute(f"{change} FOR EACH ROW EXECUTE FUNCTION refuse_change()")
