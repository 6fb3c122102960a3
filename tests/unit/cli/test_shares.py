"""`hueshift shares` against the real API."""

import json

import pytest

from tests.unit.cli.conftest import Cli


def test_a_link_is_made_listed_and_revoked(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli.do(cli.world.roll)
    assert "there is no link" in cli("shares", "list").out
    ended = cli("shares", "create", "colorize", "--rollout", "colorize-1", "--expires-in", "2d", "--reason", "a review")
    assert ended.code == 0, ended.err
    (address,) = ended.out.splitlines()
    assert address.startswith("http://127.0.0.1:8000/share/")
    (row,) = json.loads(cli("shares", "list", "-o", "json").out)
    assert (row["service"], row["rollout"], row["why"]) == ("colorize", "colorize-1", "a review")
    assert ended.err.endswith(
        f"It shows colorize until 2026-11-24 12:30 UTC; end it sooner with: hueshift shares revoke {row['id']}\n"
    )
    listed = cli("shares", "list").out
    for expected in (row["id"], "colorize-1", "opens until 2026-11-24 12:30 UTC", "a review"):
        assert expected in listed
    assert address.rpartition("/")[2] not in listed
    ended = cli("shares", "revoke", row["id"], "--reason", "it is over", "--yes")
    assert (ended.code, ended.out) == (0, f"link {row['id']} is revoked\n")
    assert "revoked 2026-11-22 12:30 UTC" in cli("shares", "list").out
    assert "it is over" in cli("audit").out


def test_programs_get_all_of_it(cli: Cli) -> None:
    cli.do(cli.world.declare)
    made = json.loads(cli("shares", "create", "colorize", "-o", "json").out)
    assert made["url"].startswith("http://127.0.0.1:8000/share/")
    assert made["rollout"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("create", "nobody"), 4, "service 'nobody' does not exist"),
        (("create", "colorize", "--rollout", "other-1"), 4, "rollout 'other-1' does not exist"),
        (("create", "colorize", "--expires-in", "soon"), 2, "--expires-in: "),
        (("create", "colorize", "--expires-in", "91d"), 2, "expires_in: "),
        (("revoke", "nothing", "--yes"), 4, "share 'nothing' does not exist"),
    ],
)
def test_what_cannot_be_shared_is_one_line(cli: Cli, arguments: tuple[str, ...], code: int, words: str) -> None:
    cli.do(cli.world.declare)
    ended = cli("shares", *arguments)
    assert ended.code == code
    (line,) = ended.err.splitlines()
    assert line.startswith(f"hueshift: {words}"), line
