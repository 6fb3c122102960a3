"""`hueshift ready` for scripts: it waits for what is missing, and says what that is."""

import httpx

from tests.unit.cli.conftest import Cli


class Starting(httpx.BaseTransport):
    """A control plane that refuses the first *refusals* connections."""

    def __init__(self, behind: httpx.BaseTransport, *, refusals: int) -> None:
        self._behind = behind
        self._refusals = refusals

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._refusals -= 1
        if self._refusals >= 0:
            raise httpx.ConnectError("Connection refused", request=request)
        return self._behind.handle_request(request)


def test_a_control_plane_that_answers_is_ready(cli: Cli) -> None:
    ended = cli("ready")
    assert (ended.code, ended.out, ended.err) == (0, "the control plane is ready\n", "")


def test_one_that_starts_is_waited_for(cli: Cli) -> None:
    cli.transport = Starting(cli.bridge, refusals=2)
    ended = cli("ready")
    assert ended.code == 0
    assert len(ended.lines) == 1, "said once"
    assert ended.lines[0].startswith("waiting: cannot reach")


def test_one_that_never_comes_is_given_up(cli: Cli) -> None:
    cli.transport = Starting(cli.bridge, refusals=1_000)
    ended = cli("ready", "--timeout", "3s")
    assert ended.code == 3
    assert "not ready within 3s: cannot reach" in ended.err
    assert cli.world.clock.steady() == 3
    assert cli("ready", "--timeout", "soon").code == 2


def test_an_envoy_that_does_not_run_it_yet_is_waited_for(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli.do(cli.world.connect, "edge-1", acked="")
    ended = cli("ready", "colorize", "--timeout", "1s")
    assert (ended.code, ended.lines[-1]) == (3, "hueshift: not ready within 1s: 0 of 1 Envoys run it")


def test_a_service_that_nobody_declared_is_refused_at_once(cli: Cli) -> None:
    ended = cli("ready", "nobody")
    assert (ended.code, cli.world.clock.steady()) == (4, 0)
