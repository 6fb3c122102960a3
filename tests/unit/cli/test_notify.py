"""`hueshift notify` against the real API."""

import asyncio
import json

from controlplane.courier.model import Unheard
from tests.unit.cli.conftest import Cli

HOOK = "https://shop.example.org/hooks?token=s3cret"


def test_targets_are_set_listed_tested_and_removed(cli: Cli) -> None:
    asyncio.run(cli.world.declare())
    assert "nobody is told" in cli("notify", "list").out
    ended = cli("notify", "set", "colorize", "team", HOOK, "--kind", "gate", "--kind", "rolled_back")
    assert ended.code == 0, ended.err
    words, secret = ended.out.splitlines()
    assert words == "colorize/team is applied"
    assert secret.startswith("  its secret, shown this once: whsec_")
    assert cli("notify", "set", "*", "gate").out.splitlines()[0] == "*/gate is applied"
    listed = cli("notify", "list").out
    for expected in ("team", "https://shop.example.org/…", "gate, rolled_back", "gates of plans"):
        assert expected in listed
    assert "s3cret" not in listed
    assert [each["target"] for each in json.loads(cli("notify", "list", "-o", "json").out)] == ["gate", "team"]
    assert cli("notify", "test", "colorize", "team").out == "colorize/team: delivered\n"
    cli.world.app.state.parts.notify.senders.webhooks.answers[HOOK] = [Unheard("answered 401")]
    ended = cli("notify", "test", "colorize", "team")
    assert (ended.code, ended.out) == (1, "colorize/team: answered 401\n")
    assert cli("notify", "secret", "colorize", "team").out.startswith("whsec_")
    assert cli("notify", "remove", "colorize", "team", "--yes").out == "colorize/team is told no more\n"
    ended = cli("notify", "remove", "colorize", "team", "--yes")
    assert (ended.code, "does not exist" in ended.err) == (4, True)


def test_deliveries_are_listed_and_told_again(cli: Cli) -> None:
    world = cli.world

    async def happen() -> None:
        await world.declare()
        await world.store.sort_history(limit=9, now=world.clock.now())

    async def go_on() -> None:
        await world.roll()
        await world.store.sort_history(limit=9, now=world.clock.now())

    asyncio.run(happen())
    cli("notify", "set", "colorize", "team", HOOK)
    asyncio.run(go_on())
    listed = cli("notify", "deliveries", "colorize", "team").out
    for expected in ("started", "colorize-1", "waits"):
        assert expected in listed
    (only,) = json.loads(cli("notify", "deliveries", "colorize", "team", "-o", "json").out)
    ended = cli("notify", "replay", "colorize", "team", str(only["number"]))
    assert ended.out == f"delivery {only['number']} is told again\n"
    assert cli("notify", "replay", "colorize", "team", "99").code == 4
