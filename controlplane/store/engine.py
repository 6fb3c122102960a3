"""Transactions: one function over a connection is one transaction, whatever the database.

The SQL of this package is plain functions ``work(tx)``; a `Database` runs them. PostgreSQL runs them on psycopg's async
driver. SQLite runs them on the standard library's driver in threads, one of them for all writers: an async wrapper
hands each *statement* to a thread and back, which cost 5 ms per transaction idle and 30 ms beside a busy event loop;
a hand-over per *transaction* costs under 1 ms, and the writers' thread is also the queue that keeps them from meeting
in SQLITE_BUSY. Whoever calls waits for its turn, so the queue is as long as there are callers.

Durability: a commit survives the death of our process at any moment on both databases. SQLite runs in WAL mode with
``synchronous=NORMAL``: losing *power* may take back the last commits, but never corrupts the file.
"""

import asyncio
import concurrent.futures
import dataclasses
import sqlite3
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext import asyncio as sa_async

from controlplane.errors import ConflictError, ControlPlaneError, InvalidInputError, UnavailableError
from controlplane.store.urls import VARIABLE, is_sqlite, shown
from controlplane.wake import Topic, WakeBoard

T = TypeVar("T")

CHANNEL: Final = "hueshift"
"""PostgreSQL's NOTIFY channel; a payload is ``origin:topic,topic``."""

SQLITE_BUSY_SECONDS: Final = 5
"""How long a write waits for another process (a backup, a CLI command) before it is refused."""
SQLITE_READERS: Final = 4
POSTGRES_CONNECTIONS: Final = 10
ERRORS: Final = (sa.exc.SQLAlchemyError, sqlite3.Error)
"""What a library may raise; BEGIN goes to SQLite's driver directly."""
ATTEMPTS: Final = 3
"""How often a transaction runs before a deadlock or a dropped connection is reported."""

POSTGRES_CONNECT_ARGS: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "hueshift",
}
POSTGRES_LIMITS: Final = "-c statement_timeout=15s -c lock_timeout=5s -c idle_in_transaction_session_timeout=30s"

FIXES: Final = (
    ("password", "correct the user and the password in the URL"),
    ("refused", "start the server, or correct host and port in the URL"),
    ("resolve", "correct the host in the URL"),
    ("timeout expired", "start the server, or correct host and port in the URL"),
    ("does not exist", "create it, or correct the URL"),
    ("permission denied", "grant the user of the URL its rights on the schema, or name another user"),
    ("readonly", "make the file and its folder writable for this user, or name another path"),
    ("during recovery", "point the URL at the primary server, which may be written"),
    ("read-only transaction", "point the URL at a server that may be written"),
    ("unable to open", "make the file and its folder writable for this user, or name another path"),
    ("not a database", "name another path, or restore the file from a backup"),
    ("malformed", "restore the file from a backup"),
    ("locked", "another process holds the file; wait until it has finished"),
    ("full", "free some space"),
)
"""What to do, by a part of the driver's words; the first that fits."""


@dataclasses.dataclass(slots=True)
class Tx:
    """A running transaction, and what to announce once it is committed."""

    conn: sa.Connection
    topics: set[Topic] = dataclasses.field(default_factory=set)

    def announce(self, *topics: Topic) -> None:
        """Have *topics* announced after the commit."""
        self.topics.update(topics)

    def lock(self, name: str) -> None:
        """Hold the lock called *name* until the transaction ends. On SQLite every writer is alone anyway."""
        if self.conn.dialect.name == "postgresql":
            self.conn.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"{CHANNEL}.{name}"})


class Runner(Protocol):
    """Runs one function as one transaction on its database."""

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run *work* on one consistent picture."""

    async def write(self, work: Callable[[Tx], T], *, origin: str) -> T:
        """Run *work* and commit, or roll everything back; tell other processes what it announced, as *origin*'s."""

    async def run(self, statement: sa.UpdateBase, facts: Mapping[str, object]) -> Sequence[sa.Row[Any]]:
        """Run one statement, a transaction of its own that announces nothing; return its rows, if it returns some."""

    async def close(self) -> None:
        """Close all connections."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Database:
    """Runs transactions, translates what goes wrong, and announces what was committed."""

    runner: Runner
    url: sa.URL
    board: WakeBoard
    origin: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run *work* on one consistent picture of the database.

        Raises:
            UnavailableError: The database does not answer.
        """
        try:
            return await self.runner.read(work)
        except ERRORS as exc:
            raise translate(exc, self.url) from exc

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run *work*, commit, and announce what it touched. It may run more than once, so it changes nothing else.

        Raises:
            ConflictError: Someone else wrote the same row at the same moment.
            UnavailableError: The database does not answer.
        """
        topics: set[Topic] = set()

        def work_noting_topics(tx: Tx) -> T:
            value = work(tx)
            topics.clear()
            topics.update(tx.topics)
            return value

        try:
            value = await self.runner.write(work_noting_topics, origin=self.origin)
        except ERRORS as exc:
            raise translate(exc, self.url) from exc
        self.board.announce(*topics)
        return value

    async def run(
        self, statement: sa.UpdateBase, facts: Mapping[str, object], *, announces: Topic | None = None
    ) -> Sequence[sa.Row[Any]]:
        """Run one statement, a transaction of its own, for a third of what `write` costs; return its rows, if any.

        What it *announces*, if it returns rows, is heard in this process alone: others find it when they next look.

        Raises:
            UnavailableError: The database does not answer.
        """
        try:
            rows = await self.runner.run(statement, facts)
        except ERRORS as exc:
            raise translate(exc, self.url) from exc
        if announces is not None and rows:
            self.board.announce(announces)
        return rows

    async def close(self) -> None:
        """Close all connections."""
        await self.runner.close()


def translate(exc: Exception, url: sa.URL) -> ControlPlaneError:
    """Say in one line what went wrong with the database at *url*; never its password."""
    words = str(exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc).strip()
    first = words.splitlines()[0].strip() if words else type(exc).__name__
    if isinstance(exc, sa.exc.IntegrityError):
        return ConflictError(f"someone else changed the same rows at the same moment ({first}); look again and repeat")
    if isinstance(exc, sa.exc.DataError):
        return InvalidInputError("value", f"the database cannot hold it ({first})", "use plain text of ordinary length")
    fix = next((fix for part, fix in FIXES if part in first), "check that it runs and that the URL is right")
    return UnavailableError(f"{VARIABLE}: the database {shown(url)} cannot be used ({first}); {fix}")


# -- SQLite ------------------------------------------------------------------------------------------------------------


def sqlite_engine(url: sa.URL, *, foreign_keys: bool = True) -> sa.Engine:
    """Make an engine whose transactions begin when we say so and whose connections are set up for a server."""
    engine = sa.create_engine(
        url,
        connect_args={"timeout": SQLITE_BUSY_SECONDS},
        pool_size=SQLITE_READERS + 1,
        max_overflow=0,
        hide_parameters=True,  # or a logged error would tell rows' values, addresses with secrets in them too
    )

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # or the driver would begin transactions on its own, too late
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        statement = "BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE"
        connection.connection.cursor().execute(statement)

    return engine


class SqliteRunner:
    """One thread writes, a few read; each keeps its connection."""

    def __init__(self, url: sa.URL) -> None:
        self._engine = sqlite_engine(url)
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._readers = concurrent.futures.ThreadPoolExecutor(SQLITE_READERS, thread_name_prefix="sqlite-reader")
        self._mine = threading.local()
        self._opened: list[sa.Connection] = []

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run *work* on one consistent picture."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._run, work, True)

    async def write(self, work: Callable[[Tx], T], *, origin: str) -> T:
        """Run *work* alone and commit. Nobody is told: no other process serves from this file."""
        del origin
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._run, work, False)

    async def run(self, statement: sa.UpdateBase, facts: Mapping[str, object]) -> Sequence[sa.Row[Any]]:
        """Run one statement."""
        return await self.write(lambda tx: _rows(tx.conn.execute(statement, facts)), origin="")

    async def close(self) -> None:
        """Wait for what runs, then close all connections."""
        await asyncio.to_thread(self._close)

    def _run(self, work: Callable[[Tx], T], reads: bool) -> T:  # noqa: FBT001 - run_in_executor passes by position
        connection: sa.Connection | None = getattr(self._mine, "connection", None)
        if connection is None or connection.closed:
            connection = self._mine.connection = self._engine.connect().execution_options(reads=reads)
            self._opened.append(connection)
        with connection.begin():
            return work(Tx(connection))

    def _close(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        for connection in self._opened:
            connection.close()
        self._engine.dispose()


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def postgres_connect_args(url: sa.URL) -> dict[str, Any]:
    """Return libpq's settings: short time-outs, so that a dead server is noticed. Those in the URL win."""
    args: dict[str, Any] = {name: value for name, value in POSTGRES_CONNECT_ARGS.items() if name not in url.query}
    if "options" not in url.query:
        args["options"] = POSTGRES_LIMITS
    return args


class PostgresRunner:
    """A pool of async connections; reads see one snapshot."""

    def __init__(self, url: sa.URL) -> None:
        self._engine = sa_async.create_async_engine(
            url,
            connect_args=postgres_connect_args(url),
            pool_size=POSTGRES_CONNECTIONS,
            max_overflow=0,
            pool_timeout=10,
            hide_parameters=True,
        )
        self._reads = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._singles = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run *work* on one consistent picture."""
        return await self._repeat(self._reads, work, "")

    async def write(self, work: Callable[[Tx], T], *, origin: str) -> T:
        """Run *work*, notify and commit."""
        return await self._repeat(self._engine, work, origin)

    async def run(self, statement: sa.UpdateBase, facts: Mapping[str, object]) -> Sequence[sa.Row[Any]]:
        """Run one statement, without the way there and back that BEGIN and COMMIT take each."""
        return await self._repeat(self._singles, lambda tx: _rows(tx.conn.execute(statement, facts)), "")

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def _repeat(self, engine: sa_async.AsyncEngine, work: Callable[[Tx], T], origin: str) -> T:
        attempt = 1
        while True:
            committing = False
            topics: set[Topic] = set()
            try:
                async with engine.connect() as connection, connection.begin() as transaction:
                    value = await connection.run_sync(lambda sync: work(Tx(sync, topics)))  # noqa: B023 - awaited here
                    committing = True
                    if topics:
                        await _notify_and_commit(connection, origin, topics)
                    await transaction.commit()
                    return value
            except sa.exc.DBAPIError as exc:
                # A commit that was cut off may have happened, so it is not repeated.
                if committing or attempt == ATTEMPTS or not _is_passing(exc):
                    raise
            attempt += 1


async def _notify_and_commit(connection: sa_async.AsyncConnection, origin: str, topics: Collection[Topic]) -> None:
    """Send NOTIFY and COMMIT at once, which saves what a statement costs: a third of a small transaction.

    The commit that follows finds nothing left to do, and sends nothing. Origins and topics are our own words, without
    quotes in them.
    """
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    payload = f"{origin}:{','.join(sorted(topic.value for topic in topics))}"
    try:
        await driver.execute(f"NOTIFY {CHANNEL}, '{payload}'; COMMIT", prepare=False)
    except connection.dialect.loaded_dbapi.Error as exc:
        raise sa.exc.OperationalError("COMMIT", None, exc) from exc


def _is_passing(exc: sa.exc.DBAPIError) -> bool:
    """Whether a second try may succeed: the server was restarted since it was last asked, or two writers crossed."""
    return exc.connection_invalidated or getattr(exc.orig, "sqlstate", None) in {"40001", "40P01"}


def _rows(result: sa.CursorResult[Any]) -> Sequence[sa.Row[Any]]:
    return result.all() if result.returns_rows else ()


def make_runner(url: sa.URL) -> Runner:
    """Return what runs transactions on *url*."""
    return SqliteRunner(url) if is_sqlite(url) else PostgresRunner(url)
