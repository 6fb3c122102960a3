"""The schema's revisions: bring a database up to date, say where it stands, refuse one that is behind.

A database *ahead* of this release is served: a migration never breaks the release before it, so that replicas can be
replaced one by one.
"""

import asyncio
import dataclasses
import functools
import pathlib
import tempfile
from typing import Final

import alembic.command
import alembic.config
import alembic.runtime.migration
import alembic.script
import sqlalchemy as sa

import controlplane
from controlplane.errors import UnavailableError
from controlplane.store.engine import ERRORS, POSTGRES_CONNECT_ARGS, sqlite_engine, translate
from controlplane.store.urls import VARIABLE, is_sqlite, parse_url, shown, sqlite_path

UPGRADE: Final = "run `hueshift db upgrade`"


@dataclasses.dataclass(frozen=True, slots=True)
class SchemaState:
    """Where a database stands: *revision* is None before the first upgrade; *head* is this release's newest."""

    revision: str | None
    head: str
    known: bool

    @property
    def is_behind(self) -> bool:
        """Whether this release needs an upgrade first."""
        return self.revision is None or (self.known and self.revision != self.head)


async def upgrade(url: str) -> None:
    """Create or upgrade the schema of the database at *url*; an SQLite file is made, its folder is not.

    Raises:
        InvalidInputError: *url* is not a database URL.
        UnavailableError: The database does not answer, may not be written, or belongs to a newer release.
    """
    parsed = parse_url(url)
    refuse_missing_folder(parsed)
    await asyncio.to_thread(_upgrade, parsed)


async def make_empty() -> bytes:
    """Return an SQLite file without rows, up to date: migrated once, then copied, for stores that are made anew."""
    return await asyncio.to_thread(_make_empty)


async def current(url: str) -> SchemaState:
    """Return where the database at *url* stands.

    Raises:
        InvalidInputError: *url* is not a database URL.
        UnavailableError: The database does not answer, or there is no such file.
    """
    parsed = parse_url(url)
    refuse_missing_file(parsed)
    return await asyncio.to_thread(_current, parsed)


def state_of(conn: sa.Connection) -> SchemaState:
    """Return where the database behind *conn* stands."""
    revision = alembic.runtime.migration.MigrationContext.configure(conn).get_current_revision()
    newest, known = _revisions()
    return SchemaState(revision=revision, head=newest, known=revision in known)


def head() -> str:
    """Return this release's newest revision."""
    return _revisions()[0]


@functools.cache
def _revisions() -> tuple[str, frozenset[str]]:
    """Return this release's newest revision, and all of them."""
    scripts = alembic.script.ScriptDirectory.from_config(_config())
    return scripts.get_current_head() or "", frozenset(script.revision for script in scripts.walk_revisions())


def refuse_behind(state: SchemaState, url: sa.URL) -> None:
    """Raise UnavailableError when this release cannot work on a schema of that age."""
    if state.revision is None:
        raise UnavailableError(f"{VARIABLE}: the database {shown(url)} has no tables yet; {UPGRADE}")
    if state.is_behind:
        raise UnavailableError(
            f"{VARIABLE}: the database {shown(url)} is at revision {state.revision},"
            f" this release needs {state.head}; {UPGRADE}"
        )


def refuse_missing_folder(url: sa.URL) -> None:
    """Raise UnavailableError when an SQLite file's folder does not exist."""
    path = sqlite_path(url) if is_sqlite(url) else None
    if path is not None and not path.parent.is_dir():
        raise UnavailableError(f"{VARIABLE}: folder {path.parent} does not exist; create it or name another path")
    if path is not None and path.is_dir():
        raise UnavailableError(f"{VARIABLE}: {path} is a folder; name a file in it")


def refuse_missing_file(url: sa.URL) -> None:
    """Raise UnavailableError when an SQLite file does not exist: opening would create an empty one."""
    refuse_missing_folder(url)
    path = sqlite_path(url) if is_sqlite(url) else None
    if path is not None and not path.exists():
        raise UnavailableError(f"{VARIABLE}: there is no database {path} yet; {UPGRADE}")


def migrations_folder() -> pathlib.Path:
    """Return the folder of the migrations: inside the wheel, or beside the package in a source checkout."""
    package = pathlib.Path(controlplane.__file__).parent
    inside = package / "migrations"
    return inside if (inside / "env.py").is_file() else package.parent / "migrations"


def _config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _engine(url: sa.URL) -> sa.Engine:
    if is_sqlite(url):
        return sqlite_engine(url, foreign_keys=False)  # a migration may have to rebuild a table that others point to
    return sa.create_engine(url, connect_args=dict(POSTGRES_CONNECT_ARGS), poolclass=sa.NullPool)


def _upgrade(url: sa.URL) -> None:
    try:
        engine = _engine(url)
        try:
            with engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('hueshift.schema'))"))
                state = state_of(connection)
                if state.revision is not None and not state.known:
                    raise UnavailableError(
                        f"{VARIABLE}: the database {shown(url)} is at revision {state.revision}, which this release"
                        " does not know; upgrade with the newer release that made it"
                    )
                config = _config()
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")
        finally:
            engine.dispose()
    except ERRORS as exc:
        raise translate(exc, url) from exc


@functools.cache
def _make_empty() -> bytes:
    with tempfile.TemporaryDirectory(prefix="hueshift-") as folder:
        path = pathlib.Path(folder) / "empty.sqlite3"
        _upgrade(sa.URL.create("sqlite", database=str(path)))
        return path.read_bytes()


def _current(url: sa.URL) -> SchemaState:
    try:
        engine = _engine(url)
        try:
            with engine.begin() as connection:
                return state_of(connection)
        finally:
            engine.dispose()
    except ERRORS as exc:
        raise translate(exc, url) from exc
