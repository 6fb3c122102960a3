"""`hueshift status` for scripts: what each exit code means."""

import json

import httpx
import pytest

from controlplane.ports import Rollout
from controlplane.rollout.model import Baking, PauseCause, Paused, Promoted, RollbackCause, RolledBack, State
from tests import builders
from tests.unit.cli.conftest import Cli

NOW = builders.NOW


@pytest.fixture
def rollout(cli: Cli) -> Rollout:
    cli.do(cli.world.declare)
    started: Rollout = cli.do(cli.world.roll)
    return started


async def _move(cli: Cli, rollout: Rollout, state: State) -> None:
    await cli.world.move(await cli.world.store.load(rollout.id), state)


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        (Promoted(NOW, "all objectives kept"), 0, "✔ promoted, step 4/4, weight 100%: all objectives kept"),
        (
            RolledBack(NOW, RollbackCause.SLO_BREACH, "20 % errors"),
            1,
            "✖ rolled back, step 0/4, weight 0%: 20 % errors",
        ),
        (Paused(1, NOW, PauseCause.INCONCLUSIVE, "too little", 1), 2, "‖ paused (inconclusive), step 2/4"),
        (Paused(1, NOW, PauseCause.NACK, "edge-1 refused RDS", 2), 2, "‖ paused (nack), step 2/4"),
        (Paused(1, NOW, PauseCause.TELEMETRY_LOST, "silence", 1), 2, "‖ paused (telemetry lost), step 2/4"),
    ],
)
def test_an_end_ends_the_wait_at_once(cli: Cli, rollout: Rollout, state: State, code: int, words: str) -> None:
    cli.do(_move, cli, rollout, state)
    ended = cli("status", "colorize", "--timeout", "5m")
    assert ended.code == code
    assert f"colorize-1: v1 → v2 {words}" in ended.out
    assert ("; run: hueshift " in ended.out) == (code == 2), "what mends it is said where something waits"
    assert cli.world.clock.steady() == 0


@pytest.mark.parametrize(("state", "code"), [(Promoted(NOW, ""), 0), (RolledBack(NOW, RollbackCause.ABORTED, ""), 1)])
def test_the_wait_ends_with_the_rollout(cli: Cli, rollout: Rollout, state: State, code: int) -> None:
    cli.later(_move, cli, rollout, Baking(0, NOW))
    cli.later(_move, cli, rollout, state)
    assert cli("status", "colorize").code == code
    assert cli.world.clock.steady() == 2


@pytest.mark.parametrize("cause", [PauseCause.OPERATOR, PauseCause.GATE])
def test_a_pause_that_someone_chose_is_waited_for(cli: Cli, rollout: Rollout, cause: PauseCause) -> None:
    cli.do(_move, cli, rollout, Paused(1, NOW, cause, "ada", 2))
    assert cli("status", "colorize", "--timeout", "30s").code == 2
    assert cli.world.clock.steady() == 30


def test_an_undecided_rollout_is_2_when_the_time_is_up(cli: Cli, rollout: Rollout) -> None:
    ended = cli("status", "colorize", "--timeout", "90s", "-o", "json")
    assert ended.code == 2
    assert json.loads(ended.out)["id"] == rollout.id
    assert cli.world.clock.steady() == 90
    assert cli("status", "colorize", "--timeout", "0").code == 2


def test_one_rollout_can_be_named(cli: Cli, rollout: Rollout) -> None:
    cli.do(_move, cli, rollout, RolledBack(NOW, RollbackCause.ABORTED, "ada"))
    cli.do(cli.world.roll)
    assert cli("status", "colorize", "--timeout", "0s").code == 2
    assert cli("status", "colorize", "--rollout", "colorize-1").code == 1
    assert cli("status", "colorize", "--rollout", "colorize-9").code == 4
    cli.do(cli.world.declare, name="style", port=9090)
    assert cli("status", "style", "--rollout", "colorize-1").code == 4


def test_without_a_rollout_there_is_nothing_to_wait_for(cli: Cli) -> None:
    cli.do(cli.world.declare)
    ended = cli("status", "colorize")
    assert (ended.code, len(ended.lines)) == (4, 1)


def test_a_control_plane_that_restarts_is_waited_for(cli: Cli, rollout: Rollout) -> None:
    class Away(httpx.BaseTransport):
        """Is away for a while after the first answer."""

        asked = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += 1
            if 2 <= self.asked <= 4:
                raise httpx.ConnectError("Connection refused")
            return cli.bridge.handle_request(request)

    cli.later(_move, cli, rollout, Promoted(NOW, "all kept"))
    cli.transport = Away()
    assert cli("status", "colorize").code == 0


def test_a_control_plane_that_stays_away_is_3(cli: Cli, rollout: Rollout) -> None:
    class Gone(httpx.BaseTransport):
        """Answers once."""

        asked = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += 1
            if self.asked > 1:
                raise httpx.ConnectError("Connection refused")
            return cli.bridge.handle_request(request)

    cli.transport = Gone()
    ended = cli("status", "colorize", "--timeout", "10s")
    assert (ended.code, len(ended.lines)) == (3, 1)
    assert rollout.id == "colorize-1"


@pytest.mark.parametrize("timeout", ["5", "soon", ""])
def test_a_timeout_needs_a_unit(cli: Cli, rollout: Rollout, timeout: str) -> None:
    ended = cli("status", rollout.service, "--timeout", timeout)
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert "--timeout: " in ended.err
