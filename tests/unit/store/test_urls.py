"""Which URLs are taken, and what of them may be shown."""

import pytest

from controlplane.errors import InvalidInputError
from controlplane.store.urls import is_memory, is_sqlite, parse_url, shown, sqlite_path


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///data/x.sqlite3", "sqlite"),
        ("sqlite+aiosqlite:////var/x", "sqlite"),
        ("sqlite://", "sqlite"),
        ("postgresql://u@h/d", "postgresql+psycopg"),
        ("postgres://u@h/d", "postgresql+psycopg"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg"),
    ],
)
def test_plain_urls_get_our_driver(url: str, driver: str) -> None:
    parsed = parse_url(url)
    assert parsed.drivername == driver
    assert is_sqlite(parsed) == url.startswith("sqlite")


@pytest.mark.parametrize("url", ["", "x", "mysql://h/d", "postgresql+asyncpg://h/d", "postgresql://h:port/d"])
def test_other_urls_are_refused_with_an_example(url: str) -> None:
    with pytest.raises(InvalidInputError, match=r"HUESHIFT_DATABASE_URL: .* use sqlite:///path/to/file or"):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://ada:s3cret@db.example:5433/hueshift", "postgresql://ada@db.example:5433/hueshift"),
        ("postgresql:///hueshift?host=/run&password=s3cret", "postgresql://localhost/hueshift"),
        ("postgresql://db.example/", "postgresql://db.example/"),
        ("sqlite:////var/lib/x", "sqlite:////var/lib/x"),
        ("sqlite://", "sqlite:///"),
    ],
)
def test_the_password_is_never_shown(url: str, text: str) -> None:
    assert shown(parse_url(url)) == text


def test_memory_and_uris_have_no_path() -> None:
    assert [is_memory(parse_url(url)) for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///x")] == [
        True,
        True,
        False,
    ]
    assert sqlite_path(parse_url("sqlite:///file:x?mode=ro&uri=true")) is None
    assert str(sqlite_path(parse_url("sqlite:////a/b"))) == "/a/b"
