"""Add service_revision.grpc_target (expand; the release before ignores it)."""  # noqa: INP001 - a folder of scripts

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column, and let nobody change it afterwards."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '4s'")
    op.add_column("service_revision", sa.Column("grpc_target", sa.Text(), nullable=True))
    change = "CREATE TRIGGER service_revision_no_retarget BEFORE UPDATE OF grpc_target ON service_revision"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"{change} BEGIN SELECT RAISE(ABORT, 'service_revision is append-only'); END")
    else:
        op.execute(f"{change} FOR EACH ROW EXECUTE FUNCTION refuse_change()")
