"""Undo, retry, queues, schedules, freezes and the one stop on the command line."""

import datetime as dt
import json

import pytest

from controlplane.cli import moments
from controlplane.errors import InvalidInputError
from controlplane.ports import Rollout
from controlplane.rollout.model import Baking, Promoted, RollbackCause, RolledBack
from tests import builders
from tests.unit.cli.conftest import Cli

NOW = builders.NOW
EVIDENCE = "error rate 20 % (20/100) > SLO 1 %"


@pytest.fixture
def rollout(cli: Cli) -> Rollout:
    cli.do(cli.world.declare, versions=("v1", "v2", "v3"))
    started: Rollout = cli.do(cli.world.move, cli.do(cli.world.roll), Baking(0, NOW))
    return started


def fail(cli: Cli, rollout: Rollout) -> None:
    cli.do(cli.world.move, rollout, RolledBack(NOW, RollbackCause.SLO_BREACH, EVIDENCE))


def promote(cli: Cli, rollout: Rollout) -> None:
    done = cli.do(cli.world.move, rollout, Promoted(NOW, "enough"))
    cli.do(cli.world.store.save, done, split=builders.make_split(v2=10_000), now=NOW)


def test_undo_says_where_the_traffic_goes(cli: Cli, rollout: Rollout) -> None:
    promote(cli, rollout)
    ended = cli("undo", "colorize", "--why", "grey")
    assert (ended.code, ended.out.splitlines()) == (
        0,
        [
            "colorize: all traffic of colorize goes back to v1: rollout colorize-2 takes it there",
            "follow it with: hueshift get colorize -w",
        ],
    )
    again = cli("undo", "colorize", "--to", "v3", "-o", "json")
    assert (again.code, again.lines) == (
        4,
        ["hueshift: rollout colorize-2 is an undo itself; abort it to leave the traffic where it was"],
    )


def test_retry_and_the_memory_of_a_failed_version(cli: Cli, rollout: Rollout) -> None:
    fail(cli, rollout)
    refused = cli("start", "colorize", "--to", "v2")
    assert refused.code == 4
    assert refused.lines == [
        (
            f"hueshift: v2 was rolled back in colorize-1: {EVIDENCE}; start it with --again (again: true) if it is to"
            " run all the same"
        )
    ]
    ended = cli("retry", "colorize", "--why", "more memory")
    assert ended.code == 0
    assert ended.out.startswith("colorize-2: v1 → v2 ◌ preparing, step 0/4, weight 0%")
    fail(cli, cli.do(cli.world.store.load_latest, "colorize"))
    assert cli("start", "colorize", "--to", "v2", "--again").code == 0


def test_the_line_on_every_page(cli: Cli, rollout: Rollout) -> None:
    ended = cli("start", "colorize", "--to", "v3", "--supersede", "--why", "newer")
    assert (ended.code, ended.out.splitlines()) == (
        0,
        [
            "colorize-2: v1 → v3 ◷ queued, step 0/4, weight 0%: rollout colorize-1 makes room for it",
            "follow it with: hueshift status colorize --rollout colorize-2",
        ],
    )
    assert cli("start", "colorize", "--to", "v3", "--at", "+2h").code == 0
    assert cli("queue", "colorize").out.splitlines() == [
        "ID          TO  STATE        BY          WORDS",
        "colorize-2  v3  ◷ queued     ada: newer  rollout colorize-1 makes room for it",
        "colorize-3  v3  ◷ scheduled  ada         scheduled for 2026-11-22 14:30:15 UTC",
    ]
    page = " ".join(cli("get", "colorize").out.split())
    assert "# colorize-2 Rollout ◷ queued 0s to v3: rollout colorize-1 makes room for it, by ada: newer" in page
    assert "# colorize-3 Rollout ◷ scheduled 0s to v3: scheduled for 2026-11-22 14:30:15 UTC, by ada" in page
    assert "colorize-1 +2" in cli("list").out
    assert "colorize-2 to v3: rollout colorize-1 makes room for it" in cli("explain", "colorize").out
    gone = cli("queue", "colorize", "--cancel", "colorize-3", "--why", "not today")
    assert (gone.code, gone.out) == (0, "colorize-3 to v3: cancelled by ada: not today\n")
    assert cli("queue", "colorize", "--cancel", "all").out == "colorize-2 to v3: cancelled by ada\n"
    assert cli("queue", "colorize").out == "nothing waits for colorize\n"
    assert cli("queue", "colorize", "--cancel", "colorize-3").code == 4
    assert json.loads(cli("queue", "colorize", "-o", "json").out) == []
    assert rollout.id == "colorize-1"


def test_status_waits_for_what_is_in_line_and_says_when_it_never_begins(cli: Cli, rollout: Rollout) -> None:
    promote(cli, rollout)
    assert cli("start", "colorize", "--to", "v3", "--at", "+2h").code == 0
    undecided = cli("status", "colorize", "--timeout", "5s")
    assert (undecided.code, "◷ scheduled" in undecided.out) == (2, True), "not the end of the one before"
    cli.later(cli.world.store.cancel, "colorize", None, by="eve", why="not today", now=NOW)
    ended = cli("status", "colorize", "--timeout", "5m", "--rollout", "colorize-2")
    assert (ended.code, "✖ cancelled" in ended.out, "cancelled by eve: not today" in ended.out) == (1, True, True)
    assert cli("status", "colorize").code == 0


def test_a_freeze_is_begun_listed_and_ended(cli: Cli, rollout: Rollout) -> None:
    begun = cli("freeze", "colorize", "--until", "+90m", "--why", "sale")
    assert (begun.code, begun.out) == (0, "colorize is frozen until 2026-11-22 14:00 UTC by ada (sale)\n")
    assert cli("freeze").out == begun.out
    assert "Frozen:" in cli("get", "colorize").out
    assert "baking, frozen" in cli("list").out
    assert cli("unfreeze", "colorize").out == "colorize is not frozen any more\n"
    assert cli("freeze", "--all", "--until", "+1h").code == 0
    assert cli("unfreeze", "colorize").code == 4
    assert cli("unfreeze", "--all").out == "everything is not frozen any more\n"
    assert cli("freeze").out == "nothing is frozen; freeze with: hueshift freeze NAME --until TIME\n"
    assert rollout.id == "colorize-1"


def test_one_stop(cli: Cli, rollout: Rollout) -> None:
    cli("start", "colorize", "--to", "v3", "--queue")
    ended = cli("abort", "--all", "--why", "fire")
    assert (ended.code, ended.out.splitlines()) == (
        0,
        ["1 rollout told to abort, 1 waiting start cancelled", "  colorize-1", "  colorize-2"],
    )
    assert rollout.id == "colorize-1"


def test_an_abort_of_what_waits_is_done_at_once(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli("start", "colorize", "--to", "v2", "--at", "+2h")
    ended = cli("abort", "colorize")
    assert (ended.code, ended.out) == (0, "colorize: colorize-1 waited and never begins\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("abort",), "name: is missing; give one of them"),
        (("abort", "colorize", "--all"), "name: is given beside --all; give one of them"),
        (("unfreeze",), "name: is missing"),
        (("freeze", "colorize"), "--until: is missing; say when it ends, as --until 22:00"),
        (("freeze", "colorize", "--all", "--until", "+1h"), "name: is given beside --all"),
        (("start", "colorize", "--to", "v2", "--at", "later"), "--at: 'later' is not a time; write 22:00, +2h, or"),
        (("start", "colorize", "--to", "v2", "--queue", "--supersede"), "queue: is given beside supersede"),
        (("start", "colorize", "--to", "v2", "--only-after-success"), "only_after_success: has nothing to wait for"),
    ],
)
def test_wrong_usage_is_one_line(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    cli.do(cli.world.declare)
    ended = cli(*arguments)
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert words in ended.err


def test_moments_are_read_as_people_type_them() -> None:
    assert moments.parse("--at", "+1h30m", now=NOW) == NOW + dt.timedelta(minutes=90)
    assert moments.parse("--at", "2026-12-01T23:00:00+01:00", now=NOW) == dt.datetime(2026, 12, 1, 22, tzinfo=dt.UTC)
    for clock in ("00:00", "9:05", "12:30", "23:59"):
        found = moments.parse("--at", clock, now=NOW)
        local = found.astimezone()
        assert NOW < found <= NOW + dt.timedelta(hours=25)
        assert [local.hour, local.minute] == [int(part) for part in clock.split(":")]
    for text, words in (("24:00", "is not a time"), ("+2", "has no unit"), ("2026-12-01T22:00", "has no time zone")):
        with pytest.raises(InvalidInputError, match=words):
            moments.parse("--at", text, now=NOW)
