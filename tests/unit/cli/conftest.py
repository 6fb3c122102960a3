"""The command line against the real API without a socket: the API lives in a thread with a loop of its own."""

import dataclasses
import datetime as dt
import pathlib
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio.from_thread
import httpx
import pytest
import structlog

from controlplane.cli.main import run
from controlplane.cli.surroundings import Surroundings
from tests.unit.api.world import World, make_template, open_world

CODED = re.compile(r"(; run: [^\n\[]*)? \[(HS\d{4})\]$", re.MULTILINE)
"""How a line on stderr ends: with the command that mends it, and its code."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    said: str = ""
    """What it said on stderr, whole."""

    @property
    def err(self) -> str:
        """What it said on stderr, without codes and commands, which test_codes.py is about."""
        return CODED.sub("", self.said)

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()

    @property
    def codes(self) -> list[str]:
        return [found.group(2) for found in CODED.finditer(self.said)]


class Bridge(httpx.BaseTransport):
    """Carries the requests of a synchronous client to an app in another thread."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal, world: World) -> None:
        self._portal = portal
        self._transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._portal.call(self._ask, request)

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=content)


@dataclasses.dataclass
class Cli:
    """Runs commands, and lets tests change the world beside them or while they wait."""

    world: World
    bridge: Bridge
    portal: anyio.from_thread.BlockingPortal
    capsys: pytest.CaptureFixture[str]
    environment: dict[str, str]
    meanwhile: list[Callable[[], object]] = dataclasses.field(default_factory=list)
    executed: list[list[str]] = dataclasses.field(default_factory=list)
    transport: httpx.BaseTransport | None = None
    photo_transport: httpx.AsyncBaseTransport | None = None

    def __call__(self, *arguments: str) -> Ended:
        self.capsys.readouterr()
        code = run(arguments, self.surroundings())
        printed = self.capsys.readouterr()
        assert "Traceback" not in printed.err
        return Ended(code, printed.out, printed.err)

    def surroundings(self) -> Surroundings:
        return Surroundings(
            environment=self.environment,
            transport=self.transport or self.bridge,
            photo_transport=self.photo_transport,
            sleep=self._sleep,
            steady=self.world.clock.steady,
            now=self.world.clock.now,
            execute=lambda _, arguments: self.executed.append(arguments),
        )

    def do(self, work: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        """Do something in the API's thread."""

        async def call() -> Any:
            return await work(*arguments, **options)

        return self.portal.call(call)

    def later(self, work: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> None:
        """Do something the next time that a command waits; several in their order."""
        self.meanwhile.append(lambda: self.do(work, *arguments, **options))

    def _sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.world.clock.move(dt.timedelta(seconds=seconds))
        if self.meanwhile:
            self.meanwhile.pop(0)()


def _environment(world: World) -> dict[str, str]:
    """Return the environment of a command; the Envoy that may be on this machine is no part of a unit test."""
    return {"HUESHIFT_API_KEY": world.key, "HUESHIFT_VALIDATE_WITH_ENVOY": "off"}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def cli(template: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_world(template, tmp_path)) as world,
        structlog.testing.capture_logs(),  # the server's log is not the command's output
    ):
        yield Cli(world, Bridge(portal, world), portal, capsys, _environment(world))
