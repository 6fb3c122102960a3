"""A library's error becomes one line of ours, with the fix that fits."""

import sqlite3

import pytest
import sqlalchemy as sa

from controlplane.errors import ConflictError, InvalidInputError, UnavailableError
from controlplane.store.engine import translate
from controlplane.store.urls import parse_url

URL = parse_url("postgresql://ada:s3cret@db/hueshift")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("connection failed: Connection refused\nIs the server running?", "start the server"),
        ('FATAL:  password authentication failed for user "ada"', "correct the user and the password"),
        ("failed to resolve host 'db'", "correct the host"),
        ("connection timeout expired", "start the server"),
        ('database "hueshift" does not exist', "create it"),
        ("attempt to write a readonly database", "make the file and its folder writable"),
        ("database or disk is full", "free some space"),
        ("something never heard of", "check that it runs"),
        ("", "check that it runs"),
    ],
)
def test_an_operational_error_names_the_database_and_the_fix(words: str, fix: str) -> None:
    error = translate(sa.exc.OperationalError("SELECT s3cret", {}, sqlite3.OperationalError(words)), URL)
    assert isinstance(error, UnavailableError)
    text = str(error)
    assert text.startswith("HUESHIFT_DATABASE_URL: the database postgresql://ada@db/hueshift cannot be used (")
    assert fix in text
    assert "s3cret" not in text
    assert "\n" not in text


def test_a_broken_constraint_is_a_conflict() -> None:
    broken = sa.exc.IntegrityError("", {}, sqlite3.IntegrityError("UNIQUE constraint failed: api_key.digest"))
    assert isinstance(translate(broken, URL), ConflictError)


def test_what_does_not_fit_a_column_is_bad_input() -> None:
    unfit = sa.exc.DataError("", {}, sqlite3.DataError("text fields cannot contain NUL"))
    assert isinstance(translate(unfit, URL), InvalidInputError)


def test_a_full_pool_is_an_outage() -> None:
    assert isinstance(translate(sa.exc.TimeoutError("QueuePool limit reached"), URL), UnavailableError)
