"""`hueshift audit`: what people did, as a table and as JSON."""

import json

from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import Grant, Role
from tests.unit.cli.conftest import Cli


def test_the_audit_is_listed_and_filtered(cli: Cli) -> None:
    cli.do(cli.world.declare)
    ring = KeyRing(store=cli.world.store, clock=cli.world.clock)
    ada = cli.environment["HUESHIFT_API_KEY"]
    cli.environment["HUESHIFT_API_KEY"] = cli.do(ring.create, "bob", (Grant(Role.VIEWER, "colorize"),))
    for _ in range(2):
        assert cli("abort", "colorize").code == 4
    cli.environment["HUESHIFT_API_KEY"] = ada
    lines = cli("--no-color", "audit").out.splitlines()
    assert lines[0].split() == ["AT", "WHO", "WHAT", "SERVICE", "OUTCOME", "WORDS"]
    whole = json.loads(cli("audit", "-o", "json").out)["entries"]
    assert sorted(each["what"] for each in whole) == [
        "POST /v1/services/{name}/rollout/abort",
        "apply",
        "key-create",
        "key-create",
    ]
    (denied,) = json.loads(
        cli("audit", "--outcome", "denied", "--by", "bob", "--service", "colorize", "-o", "json").out
    )["entries"]
    assert (denied["by"], denied["count"]) == ("bob", 2)
    assert "(2 times)" in " ".join(cli("audit", "--outcome", "denied").out.split())
    assert [len(json.loads(cli("audit", "--limit", str(n), "-o", "json").out)["entries"]) for n in (1, 3)] == [1, 3]
    assert cli("audit", "--by", "nobody").out == "nobody did anything like that\n"


def test_a_command_line_that_makes_no_sense_is_one_line(cli: Cli) -> None:
    for arguments in (("--outcome", "perhaps"), ("--limit", "0")):
        ended = cli("audit", *arguments)
        assert (ended.code, len(ended.lines)) == (2, 1)
