"""The way to the API: address, key, what is unreachable; and the command line itself."""

import json
import pathlib
import subprocess
import sys

import httpx
import pytest

from controlplane.cli import client as client_module
from controlplane.cli.client import find_key, is_local
from controlplane.errors import InvalidInputError
from tests.unit.cli.conftest import Cli


class Answering(httpx.BaseTransport):
    """Always gives one answer, or fails in one way."""

    def __init__(self, answer: httpx.Response | httpx.HTTPError) -> None:
        self._answer = answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        del request
        if isinstance(self._answer, httpx.HTTPError):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), 3, "cannot reach http://127.0.0.1:8000 ([Errno 111] "),
        (httpx.ConnectError("Name or service\nnot known"), 3, "start it with `hueshift serve`, or set HUESHIFT_URL"),
        (httpx.ReadTimeout("slow"), 3, "did not answer within 30 s; try again"),
        (httpx.ReadError("reset"), 3, "cannot reach"),
        (httpx.Response(503, json={"code": "x", "detail": "the database does not answer"}), 3, "the database does not"),
        (httpx.Response(500, json={"code": "internal", "detail": "internal error"}), 3, "internal error"),
        (httpx.Response(502, text="<html>Bad Gateway</html>"), 3, "answered 502 Bad Gateway; check HUESHIFT_URL"),
        (httpx.Response(404, text="nginx"), 4, "answered 404 Not Found; check HUESHIFT_URL"),
        (httpx.Response(403, json={"code": "forbidden", "detail": "not yours"}), 4, "not yours"),
        (httpx.Response(200, text="<html>"), 3, "does not answer like this version of hueshift"),
        (httpx.Response(200, json={"another": "service"}), 3, "does not answer like this version of hueshift"),
        (httpx.Response(413, json={"code": "x", "detail": "the body is larger"}), 2, "the body is larger"),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_line_and_a_code(
    cli: Cli, answer: httpx.Response | httpx.HTTPError, code: int, words: str
) -> None:
    cli.transport = Answering(answer)
    ended = cli("list")
    assert (ended.code, ended.out, len(ended.lines)) == (code, "", 1)
    assert words in ended.err


def test_a_missing_or_wrong_key_is_refused_with_4_and_never_printed(cli: Cli) -> None:
    cli.environment.clear()
    cli.environment["HUESHIFT_DATA_DIR"] = "/nowhere"
    ended = cli("list")
    assert (ended.code, ended.lines) == (
        4,
        ["hueshift: no API key: set HUESHIFT_API_KEY, or HUESHIFT_API_KEY_FILE to the file that holds it"],
    )
    secret = "hs_" + "ab" * 32
    cli.environment["HUESHIFT_API_KEY"] = secret
    ended = cli("list")
    assert (ended.code, len(ended.lines)) == (4, 1)
    assert "not known or was revoked" in ended.err
    assert secret not in ended.err + ended.out


def test_the_key_comes_from_the_variable_then_the_named_file_then_the_local_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "admin.key").write_text("hs_local\n")
    named = tmp_path / "named"
    named.write_text(" hs_named \n")
    local = {"HUESHIFT_DATA_DIR": str(tmp_path)}
    here, there = "http://127.0.0.1:8000", "https://hueshift.example"
    assert find_key({**local, "HUESHIFT_API_KEY_FILE": str(named), "HUESHIFT_API_KEY": "hs_given"}, there) == "hs_given"
    assert find_key({**local, "HUESHIFT_API_KEY_FILE": str(named)}, there) == "hs_named"
    assert find_key(local, here) == "hs_local"
    assert find_key(local, there) is None
    assert find_key({"HUESHIFT_DATA_DIR": str(tmp_path / "none")}, here) is None
    with pytest.raises(InvalidInputError, match="HUESHIFT_API_KEY_FILE: "):
        find_key({"HUESHIFT_API_KEY_FILE": str(tmp_path / "none")}, there)


def test_the_local_key_is_sent_to_this_machine_only() -> None:
    assert all(map(is_local, ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8000", "https://127.3.2.1"]))
    assert not any(map(is_local, ["http://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example", ""]))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "what"])
def test_an_address_that_is_none_is_refused(cli: Cli, url: str) -> None:
    cli.environment["HUESHIFT_URL"] = url
    ended = cli("list")
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert "HUESHIFT_URL" in ended.err


def test_the_address_can_be_given_as_an_option(cli: Cli) -> None:
    cli.environment["HUESHIFT_URL"] = "http://elsewhere"
    assert cli("--url", "http://hueshift.test/", "list").code == 0
    assert str(cli.bridge.requests[0].url) == "http://hueshift.test/v1/services"


def test_names_cannot_leave_their_place_in_the_path(cli: Cli) -> None:
    assert cli("get", "../../metrics").code == 4
    assert cli.bridge.requests[0].url.raw_path.startswith(b"/v1/services/..%2F..%2Fmetrics/status")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("explode",), "No such command 'explode'; see hueshift --help"),
        (("get",), "Missing argument 'name'; see hueshift get --help"),
        (("get", "a", "b"), "see hueshift get --help"),
        (("keys", "explode"), "see hueshift keys --help"),
    ],
)
def test_wrong_usage_is_one_line_and_2(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    ended = cli(*arguments)
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert words.lower() in ended.err.lower()


def test_the_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    ended = cli("--help")
    assert ended.code == 0
    for name in (
        *(
            "apply",
            "diff",
            "delete",
            "schema",
            "report",
            "lint",
            "list",
            "get",
            "start",
            "status",
            "pause",
            "resume",
            "promote",
            "abort",
            "set-weight",
        ),
        *("undo", "retry", "queue", "freeze", "unfreeze"),
        *(
            "history",
            "events",
            "ready",
            "explain",
            "replay",
            "proxies",
            "serve",
            "bootstrap",
            "envoy",
            "db",
            "keys",
            "shares",
            "audit",
            "demo",
            "bench",
            "soak",
            "simulate",
            "plan",
            "jobs",
            "batch",
            "quality",
            "openapi",
            "codes",
            "completion",
        ),
    ):
        assert f"\n  {name} " in ended.out
        assert cli(name, "--help").code == 0
    for words in ("0 done", "1 the answer is no", "2 wrong input", "3 the control plane", "4 refused"):
        assert words in " ".join(ended.out.split())


def test_help_waits_for_no_heavy_import() -> None:
    heavy = (
        "rich",
        "httpx",
        "fastapi",
        "pydantic",
        "sqlalchemy",
        "grpc",
        "numpy",
        "yaml",
        "controlplane.wiring",
        "controlplane.running",
    )
    code = f"""
import sys
from controlplane.cli.main import run
from controlplane.cli.surroundings import Surroundings
assert run(["--help"], Surroundings()) == 0
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_reader_that_goes_away_is_no_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", broken)
    assert cli("list").code == 0


def test_an_interrupt_is_no_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client_module.Client, "get_all", interrupted)
    ended = cli("list")
    assert (ended.code, ended.err) == (130, "")


def test_long_lists_are_read_to_their_end(cli: Cli) -> None:
    async def declare_many() -> None:
        for number in range(103):
            await cli.world.declare(name=f"s{number:03}", port=10_000 + number)

    cli.do(declare_many)
    names = [each["name"] for each in json.loads(cli("list", "-o", "json").out)]
    assert names == [f"s{number:03}" for number in range(103)]
    assert len([request for request in cli.bridge.requests if request.url.path == "/v1/services"]) == 2


def test_the_reference_is_printed_without_a_server(cli: Cli) -> None:
    cli.transport = Answering(httpx.ConnectError("nobody is there"))
    docs = pathlib.Path(__file__).parents[3] / "docs"
    assert cli("openapi").out == (docs / "openapi.json").read_text("utf-8")
    assert cli("openapi", "--markdown").out == (docs / "api.md").read_text("utf-8")


def test_json_is_json_even_where_text_is_not_ascii(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli("start", "colorize", "--to", "v2", "--why", "größer ✔")
    assert "größer ✔" in cli("get", "colorize", "-o", "json").out
    assert json.loads(cli("get", "colorize", "-o", "json").out)["rollout"]["why"] == "größer ✔"
