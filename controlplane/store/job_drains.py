"""The condition under which no job is started: part of every statement that starts one, so that no replica is late."""

from typing import Final

import sqlalchemy as sa

from controlplane.jobs.operations import ALL_KINDS
from controlplane.store.job_tables import job, job_drain, job_kind

_HOLDS: Final = job_drain.c.ended_at.is_(None)

DRAINED: Final = sa.exists().where(_HOLDS, sa.or_(job_drain.c.kind == ALL_KINDS, job_drain.c.kind == job.c.kind))
"""Whether a row of ``job`` is of a kind that is drained."""

KIND_DRAINED: Final = sa.exists().where(
    _HOLDS, sa.or_(job_drain.c.kind == ALL_KINDS, job_drain.c.kind == job_kind.c.name)
)
"""Whether a row of ``job_kind`` is drained."""
