"""Add service_revision.listener_certificate: a name, never the certificate (expand; the release before ignores it)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column, and let nobody change it afterwards."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column(
        "service_revision", sa.Column("listener_certificate", sa.Text(), nullable=False, server_default=sa.text("''"))
    )
    change = "CREATE TRIGGER service_revision_no_recertify BEFORE UPDATE OF listener_certificate ON service_revision"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"{change} BEGIN SELECT RAISE(ABORT, 'service_revision is append-only'); END")
    else:
        op.execute(f"{change} FOR EACH ROW EXECUTE FUNCTION refuse_change()")
