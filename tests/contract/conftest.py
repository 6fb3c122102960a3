"""Every adapter of a port sits the same exam: here the store, once on SQLite and once on PostgreSQL."""

import asyncio
import datetime as dt
import pathlib
import shutil
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from controlplane.clock import SystemClock
from controlplane.ports import Store
from controlplane.store import SqlStore, open_store, tables
from controlplane.store.schema import head, upgrade
from controlplane.wake import Topic, Wake, WakeBoard
from tests.pg import Postgres, running_postgres

TEMPLATE = "hueshift_template"

IS_A_STORE: type[Store] = SqlStore  # mypy sits this exam


class Ears:
    """Hears what is announced on a board."""

    def __init__(self) -> None:
        self.board = WakeBoard()
        self._wakes = {topic: Wake() for topic in Topic}
        for topic, wake in self._wakes.items():
            self.board.listen(wake, topic)

    async def heard(self, *, at_most: dt.timedelta = dt.timedelta(0)) -> set[Topic]:
        """Return the topics announced since the last call; wait *at_most* for each."""
        return {topic for topic in Topic if await self.hears(topic, at_most=at_most)}

    async def hears(self, topic: Topic, *, at_most: dt.timedelta) -> bool:
        """Whether *topic* was announced since the last call, or is within *at_most*."""
        return await self._wakes[topic].wait(at_most)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Run one server for the session, with an upgraded database to copy."""
    with running_postgres() as server:
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(upgrade(server.url(TEMPLATE)))
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Make one upgraded file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    asyncio.run(upgrade(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def shared_database(postgres: Postgres) -> Iterator[str]:
    """Give one database to many tests, since making one takes a third of a second, and wiping it a fiftieth."""
    with postgres.database(template=TEMPLATE) as url:
        yield url


def wipe(url: str) -> None:
    """Empty all tables, also those whose triggers refuse it."""
    names = [*(table.name for table in tables.metadata.sorted_tables), "alembic_version"]
    deletions = "".join(f"DELETE FROM {name};" for name in names)  # noqa: S608 - our own names
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET session_replication_role = replica; {deletions}".encode())
        connection.execute("INSERT INTO alembic_version VALUES (%s)", (head(),))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    """Give an upgraded, empty database."""
    if request.param == "sqlite":
        path = tmp_path / "store.sqlite3"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    url = request.getfixturevalue("shared_database")
    wipe(url)
    yield url


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
async def store(database_url: str, ears: Ears) -> AsyncIterator[SqlStore]:
    """Give an open store on an empty database."""
    async with await open_store(database_url, board=ears.board, clock=SystemClock()) as opened:
        yield opened


@pytest.fixture
async def sqlite_store(sqlite_template: pathlib.Path, tmp_path: pathlib.Path) -> AsyncIterator[SqlStore]:
    """Give a store on SQLite, for what only that can do."""
    path = shutil.copy(sqlite_template, tmp_path / "only.sqlite3")
    async with await open_store(f"sqlite:///{path}", board=WakeBoard(), clock=SystemClock()) as opened:
        yield opened


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """Give a database of its own to a test that does to it what only PostgreSQL can do."""
    with postgres.database(template=TEMPLATE) as url:
        yield url


@pytest.fixture
async def postgres_store(postgres_url: str) -> AsyncIterator[SqlStore]:
    async with await open_store(postgres_url, board=WakeBoard(), clock=SystemClock()) as opened:
        yield opened


@pytest.fixture
async def other(database_url: str, store: SqlStore) -> AsyncIterator[SqlStore]:  # noqa: ARG001 - opened after it
    """Give a second process's store on the same database."""
    async with await open_store(database_url, board=WakeBoard(), clock=SystemClock()) as opened:
        yield opened
