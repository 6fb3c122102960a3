"""What people may write into HUESHIFT_DATABASE_URL, and how it is shown without its password."""

import importlib.util
import pathlib

import sqlalchemy as sa

from controlplane.errors import InvalidInputError, UnavailableError

VARIABLE = "HUESHIFT_DATABASE_URL"
_SQLITE = {"sqlite", "sqlite+pysqlite", "sqlite+aiosqlite"}
_POSTGRESQL = {"postgresql", "postgres", "postgresql+psycopg"}


def parse_url(url: str) -> sa.URL:
    """Return *url* with the driver that we use.

    Raises:
        InvalidInputError: It is no URL, or names a database that we do not speak.
        UnavailableError: The database's driver is not installed.
    """
    fix = "use sqlite:///path/to/file or postgresql://user:password@host/name"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # The cause is dropped on purpose: it repeats the URL, and with it the password.
        raise InvalidInputError(VARIABLE, "is not a database URL", fix) from None
    if parsed.drivername in _SQLITE:
        return parsed.set(drivername="sqlite")
    if parsed.drivername in _POSTGRESQL:
        if importlib.util.find_spec("psycopg") is None:
            raise UnavailableError(f"{VARIABLE}: PostgreSQL's driver is missing; pip install 'hueshift[postgres]'")
        return parsed.set(drivername="postgresql+psycopg")
    raise InvalidInputError(VARIABLE, f"{parsed.drivername!r} is not a database we speak", fix)


def is_sqlite(url: sa.URL) -> bool:
    """Whether *url* names a file (or, without a path, memory)."""
    return url.get_backend_name() == "sqlite"


def is_memory(url: sa.URL) -> bool:
    """Whether *url* asks for an SQLite database that nobody keeps."""
    return is_sqlite(url) and url.database in {None, "", ":memory:"}


def sqlite_path(url: sa.URL) -> pathlib.Path | None:
    """Return the file of an SQLite URL; None when it is in memory or a ``file:`` URI, which SQLite resolves itself."""
    name = url.database
    if name is None or is_memory(url) or name.startswith("file:"):
        return None
    return pathlib.Path(name)


def shown(url: sa.URL) -> str:
    """Return what may be printed: neither the password nor the query, where one could hide too."""
    if is_sqlite(url):
        return f"sqlite:///{url.database or ''}"
    where = url.host or "localhost"
    port = f":{url.port}" if url.port else ""
    user = f"{url.username}@" if url.username else ""
    return f"postgresql://{user}{where}{port}/{url.database or ''}"
