"""The whole store, and how it is opened: refused in one line where the database is not fit to be used."""

import contextlib
import dataclasses
import pathlib
import tempfile
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from controlplane.clock import Clock
from controlplane.store import schema, tables
from controlplane.store.audit import SqlAudit
from controlplane.store.catalogue import SqlCatalogue
from controlplane.store.declared import SqlDeclared
from controlplane.store.desired import SqlDesired
from controlplane.store.engine import Database, Tx, make_runner
from controlplane.store.event_log import SqlEventLog
from controlplane.store.fleet import SqlFleet
from controlplane.store.gates import SqlGates
from controlplane.store.given_answers import SqlGivenAnswers
from controlplane.store.job_attempts import SqlAttempts
from controlplane.store.job_callbacks import SqlCallbacks
from controlplane.store.job_ends import SqlEnds
from controlplane.store.job_figures import SqlJobFigures
from controlplane.store.job_lanes import SqlLanes
from controlplane.store.job_looks import SqlJobLooks
from controlplane.store.job_operations import SqlJobOperations
from controlplane.store.job_owners import SqlOwners
from controlplane.store.job_totals import SqlJobTotals
from controlplane.store.jobs import SqlJobs
from controlplane.store.keys import SqlKeys
from controlplane.store.lease import SqlLease
from controlplane.store.listener import Listener
from controlplane.store.models import SqlModels
from controlplane.store.notify import SqlNotify
from controlplane.store.notify_links import SqlNotifyLinks
from controlplane.store.quality import SqlQuality
from controlplane.store.rollouts import SqlRollouts
from controlplane.store.samples import SqlSamples
from controlplane.store.sessions import SqlSessions
from controlplane.store.specs import SpecCache
from controlplane.store.steering import SqlSteering
from controlplane.store.sums import SqlSums
from controlplane.store.telemetry import SqlTelemetry
from controlplane.store.urls import is_memory, is_sqlite, parse_url
from controlplane.wake import WakeBoard


@dataclasses.dataclass(slots=True, kw_only=True)
class SqlStore(
    SqlCatalogue,
    SqlDeclared,
    SqlRollouts,
    SqlSteering,
    SqlEventLog,
    SqlFleet,
    SqlDesired,
    SqlTelemetry,
    SqlSums,
    SqlSamples,
    SqlQuality,
    SqlModels,
    SqlKeys,
    SqlAudit,
    SqlSessions,
    SqlLease,
    SqlGivenAnswers,
    SqlJobs,
    SqlAttempts,
    SqlJobLooks,
    SqlJobOperations,
    SqlJobFigures,
    SqlJobTotals,
    SqlOwners,
    SqlEnds,
    SqlCallbacks,
    SqlLanes,
    SqlNotify,
    SqlNotifyLinks,
    SqlGates,
):
    """The ports `Store`, `KeyStore`, `AuditStore`, `JobStore` and `CallbackStore` on one SQL database.

    Close it, or use it in `with`.
    """

    clock: Clock
    scratch: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run_listener(self) -> None:
        """Announce what other processes commit, until cancelled; at once done on SQLite, which has no such news."""
        if not is_sqlite(self.database.url):
            await Listener(database=self.database, clock=self.clock).run()

    async def close(self) -> None:
        """Close all connections; what was committed stays."""
        await self.database.close()
        self.scratch.close()


async def open_store(url: str, *, board: WakeBoard, clock: Clock) -> SqlStore:
    """Connect to the database at *url* and make sure that it is reachable, writable and up to date.

    ``sqlite://`` without a path is a store for tests and trials: it is made here and gone when closed.

    Raises:
        InvalidInputError: *url* is not a database URL.
        UnavailableError: The database cannot be used; the text says why and what to do.
    """
    parsed = parse_url(url)
    async with contextlib.AsyncExitStack() as undo:
        scratch = undo.enter_context(contextlib.ExitStack())
        if is_memory(parsed):
            folder = scratch.enter_context(tempfile.TemporaryDirectory(prefix="hueshift-"))
            file = pathlib.Path(folder) / "store.sqlite3"
            file.write_bytes(await schema.make_empty())
            parsed = parsed.set(database=str(file))
        schema.refuse_missing_file(parsed)
        database = Database(runner=make_runner(parsed), url=parsed, board=board)
        undo.push_async_callback(database.close)
        schema.refuse_behind(await database.read(lambda tx: schema.state_of(tx.conn)), parsed)
        await database.write(_try_to_write)
        undo.pop_all()
        return SqlStore(database=database, specs=SpecCache(), clock=clock, scratch=scratch)


def _try_to_write(tx: Tx) -> None:
    """Change no row, which a read-only file or server refuses all the same."""
    tx.conn.execute(tables.lease.update().where(sa.false()).values(epoch=0))
