"""What happens, told on the command line: sentences of the past, and on after a stream was cut."""

import json
from collections.abc import Iterator

import httpx
import pytest
import yaml

from controlplane.cli.following import HAPPENINGS
from controlplane.events.model import LEVELS, Cursor, EventType, encode
from tests.unit.cli.conftest import Cli


@pytest.fixture
def told(cli: Cli) -> Iterator[Cli]:
    """Have the API's process tell events."""
    cli.do(cli.world.declare)
    cli.do(cli.world.declare, name="other", port=9090)
    cli.do(cli.world.roll)
    feed = cli.portal.start_task_soon(cli.world.events.run)
    yield cli
    feed.cancel()


def test_the_past_is_told_in_sentences(told: Cli) -> None:
    ended = told("events", "--service", "colorize")
    assert ended.code == 0
    said = [line.split(" ", 2)[2] for line in ended.out.splitlines()]
    assert said == [
        "colorize: ada declared colorize: revision 1 declared",
        "colorize: ada started v1 -> v2: rollout colorize-1 from v1 to v2 started: better blues",
        "colorize: preparing v2: waiting for healthy workers of v2",
    ]
    assert told("events", "-n", "1", "--types", "apply").out.count("\n") == 1
    assert told("events", "--types", "weights").out.splitlines() == [
        "colorize: v1 100 %; 0/0 ACKed",
        "other: v1 100 %; 0/0 ACKed",
    ]


def test_all_that_happens_is_told_unless_less_is_asked_for(told: Cli) -> None:
    assert set(HAPPENINGS.split(",")) == set(EventType) - LEVELS
    assert told("freeze", "other", "--until", "+1h").code == 0
    assert told("delete", "other", "--yes", "--reason", "moved").code == 0
    ended = told("events", "--service", "other", "-n", "2")
    frozen, deleted = (line.split("other: ", 1)[1] for line in ended.out.splitlines())
    assert frozen.startswith("ada: other is frozen until ")
    assert deleted == "ada deleted other; its history is kept: moved"


def test_programs_get_an_object_per_line(told: Cli) -> None:
    found = [json.loads(line) for line in told("events", "-o", "json", "-n", "2").out.splitlines()]
    assert [(each["type"], each["id"], each["after"]) for each in found] == [
        ("command", "3", ""),
        ("rollout", "4", "Preparing"),
    ]


def test_yaml_is_a_document_each(told: Cli) -> None:
    found = list(yaml.safe_load_all(told("events", "-o", "yaml", "-n", "2").out))
    assert [each["id"] for each in found] == ["3", "4"]


def test_a_type_that_is_none_is_refused(told: Cli) -> None:
    ended = told("events", "--types", "weather")
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert "'weather' is no type of event" in ended.err


class Streams(httpx.BaseTransport):
    """Gives one answer after the other, and interrupts at their end."""

    def __init__(self, *answers: httpx.Response | httpx.HTTPError) -> None:
        self._answers = list(answers)
        self.asked: list[str | None] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.headers.get("Last-Event-ID"))
        if not self._answers:
            raise KeyboardInterrupt
        answer = self._answers.pop(0)
        if isinstance(answer, httpx.HTTPError):
            raise answer
        return answer


def happening(number: int) -> bytes:
    return encode("rollout", {"service": "colorize", "sentence": f"moved {number}"}, Cursor(number))


def test_following_goes_on_where_a_stream_was_cut(cli: Cli) -> None:
    cli.transport = streams = Streams(
        httpx.Response(200, content=encode("begin", {}, Cursor(3)) + happening(4) + happening(5)),
        httpx.ConnectError("refused"),
        httpx.ConnectError("refused"),
        httpx.Response(200, content=encode("begin", {}, Cursor(5)) + happening(6) + b": still here\nid: 9\n\n"),
        httpx.Response(200, content=encode("reset", {}, Cursor(20))),
    )
    ended = cli("events", "-f")
    assert (ended.code, ended.out.splitlines()) == (130, [f"colorize: moved {number}" for number in (4, 5, 6)])
    assert streams.asked == [None, "5", "5", "5", "9", "20"]
    assert [line.split(";")[0] for line in ended.lines] == [
        "hueshift: cannot reach http://127.0.0.1:8000 (refused)",
        "hueshift: more has happened meanwhile than can be told",
    ]


def test_a_control_plane_that_is_not_there_ends_it_at_once(cli: Cli) -> None:
    cli.transport = Streams(httpx.ConnectError("refused"))
    assert cli("events", "-f").code == 3


def test_a_key_that_was_revoked_meanwhile_ends_it(cli: Cli) -> None:
    cli.transport = Streams(
        httpx.Response(200, content=happening(4)),
        httpx.Response(401, json={"code": "unauthorized", "detail": "not known or was revoked"}),
    )
    ended = cli("events", "-f")
    assert (ended.code, "was revoked" in ended.err) == (4, True)
