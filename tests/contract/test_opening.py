"""A database that is not fit to be used is refused in one line that names the variable and the fix."""

import contextlib
import pathlib
import shutil
import sqlite3

import psycopg
import pytest

from controlplane.clock import SystemClock
from controlplane.errors import ControlPlaneError, InvalidInputError, UnavailableError
from controlplane.store import SqlStore, open_store
from controlplane.store.schema import current, upgrade
from controlplane.wake import WakeBoard
from tests.builders import make_batch
from tests.pg import Postgres

WRONG = "s3cret"


async def open_plainly(url: str) -> SqlStore:
    return await open_store(url, board=WakeBoard(), clock=SystemClock())


async def refusal(url: str) -> str:
    """Return the one line with which *url* is refused."""
    with pytest.raises((UnavailableError, InvalidInputError)) as caught:
        await open_plainly(url)
    words = str(caught.value)
    assert "HUESHIFT_DATABASE_URL" in words
    assert "\n" not in words
    return words


@pytest.mark.parametrize(
    "url", ["", "no url", "mysql://root:s3cret@host/db", "sqlite", "postgresql://u:s3cret@h:port/d"]
)
async def test_what_is_no_url_of_ours_is_refused_without_repeating_it(url: str) -> None:
    words = await refusal(url)
    assert "use sqlite:///path/to/file or postgresql://" in words
    assert "s3cret" not in words


# -- SQLite ------------------------------------------------------------------------------------------------------------


async def test_a_file_that_does_not_exist_is_not_made_by_opening(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new.sqlite3"
    assert (await refusal(f"sqlite:///{path}")).endswith(f"there is no database {path} yet; run `hueshift db upgrade`")
    assert not path.exists()


async def test_a_folder_that_does_not_exist_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "no/such/file"
    assert f"folder {path.parent} does not exist; create it" in await refusal(f"sqlite:///{path}")
    with pytest.raises(UnavailableError, match="create it"):
        await upgrade(f"sqlite:///{path}")


async def test_a_folder_is_no_file(tmp_path: pathlib.Path) -> None:
    assert "is a folder; name a file in it" in await refusal(f"sqlite:///{tmp_path}")


async def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG" * 1000)
    assert "file is not a database" in await refusal(f"sqlite:///{path}")
    with pytest.raises(UnavailableError, match="not a database"):
        await upgrade(f"sqlite:///{path}")
    assert path.read_bytes() == b"\x89PNG" * 1000


async def test_a_place_where_nothing_can_be_written_is_refused() -> None:
    with pytest.raises(UnavailableError, match="make the file and its folder writable"):
        await upgrade("sqlite:////proc/hueshift.sqlite3")


async def test_a_file_that_may_only_be_read_is_refused(sqlite_template: pathlib.Path) -> None:
    words = await refusal(f"sqlite:///file:{sqlite_template}?mode=ro&uri=true")
    assert "make the file and its folder writable" in words


async def test_an_empty_file_lacks_its_tables(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "empty.sqlite3"
    path.touch()
    assert (await refusal(f"sqlite:///{path}")).endswith("has no tables yet; run `hueshift db upgrade`")


async def test_another_writer_is_waited_for_and_then_named(
    sqlite_template: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.store.engine.SQLITE_BUSY_SECONDS", 0.02)
    path = shutil.copy(sqlite_template, tmp_path / "shared.sqlite3")
    async with await open_plainly(f"sqlite:///{path}") as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as intruder:
            intruder.execute("BEGIN IMMEDIATE")
            words = await refusal(f"sqlite:///{path}")
            with pytest.raises(UnavailableError, match="database is locked"):
                await store.record(make_batch("one"))
            assert await store.list_services() == ()  # readers wait for nobody
        assert words.endswith("another process holds the file; wait until it has finished")
        await store.record(make_batch("one"))
        assert len(await store.load_ticks((), after=0)) == 1


async def test_memory_is_a_store_of_its_own() -> None:
    async with await open_plainly("sqlite://") as one, await open_plainly("sqlite:///:memory:") as other:
        folder = pathlib.Path(one.database.url.database or "").parent
        assert folder.is_dir()
        assert one.database.url != other.database.url
        assert await one.list_services() == ()
    assert not folder.exists()


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@pytest.mark.integration
async def test_a_wrong_password_is_refused_without_saying_it(postgres: Postgres) -> None:
    words = await refusal(postgres.url(password=WRONG))
    assert "password authentication failed" in words
    assert words.endswith("correct the user and the password in the URL")
    assert WRONG not in words


@pytest.mark.integration
async def test_a_database_that_does_not_exist_is_refused(postgres: Postgres) -> None:
    assert 'database "nowhere" does not exist' in await refusal(postgres.url("nowhere"))


@pytest.mark.integration
async def test_a_server_that_does_not_run_is_refused(postgres: Postgres) -> None:
    words = await refusal(postgres.url().replace(f":{postgres.port}/", ":1/"))
    assert "postgresql://postgres@127.0.0.1:1/postgres cannot be used" in words
    assert words.endswith("start the server, or correct host and port in the URL")
    assert postgres.password not in words


@pytest.mark.integration
async def test_a_database_without_tables_is_refused(postgres: Postgres) -> None:
    with postgres.database() as url:
        assert (await refusal(url)).endswith("has no tables yet; run `hueshift db upgrade`")


@pytest.mark.integration
async def test_an_outage_is_an_error_of_ours_and_passes(
    postgres: Postgres, postgres_url: str, postgres_store: SqlStore
) -> None:
    name = postgres_url.rpartition("/")[2]
    await postgres_store.list_services()
    postgres.disconnect_all(postgres_url)
    assert await postgres_store.list_services() == ()  # a restarted server costs no error
    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgres.disconnect_all(postgres_url)
    with pytest.raises(UnavailableError, match="cannot be used"):
        await postgres_store.list_services()
    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert await postgres_store.list_services() == ()


# -- revisions ---------------------------------------------------------------------------------------------------------


SET_REVISION = "UPDATE alembic_version SET version_num = '9999'"


def come_from_the_future(url: str) -> None:
    """Pretend that a newer release has upgraded the database."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(SET_REVISION)
        connection.close()
    else:
        with psycopg.connect(url, autocommit=True) as pg:
            pg.execute(SET_REVISION)


async def test_a_schema_ahead_of_this_release_is_served(database_url: str) -> None:
    come_from_the_future(database_url)
    assert not (await current(database_url)).is_behind
    async with await open_plainly(database_url) as store:
        assert await store.list_services() == ()
    with pytest.raises(UnavailableError, match="9999, which this release does not know"):
        await upgrade(database_url)


async def test_a_schema_behind_this_release_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = (await current(database_url)).revision
    monkeypatch.setattr("controlplane.store.schema._revisions", lambda: ("9998", frozenset({now, "9998"})))
    words = await refusal(database_url)
    assert words.endswith(f"is at revision {now}, this release needs 9998; run `hueshift db upgrade`")


async def test_upgrading_twice_is_harmless(database_url: str) -> None:
    before = await current(database_url)
    await upgrade(database_url)
    assert await current(database_url) == before
    assert before.revision == before.head


async def test_the_state_of_what_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ControlPlaneError, match="there is no database"):
        await current(f"sqlite:///{tmp_path}/none.sqlite3")
